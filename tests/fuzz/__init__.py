"""Fuzzing: recorded streams, answers and requests, mutated at random, are given to the router's parsers.

    corpus       the recordings: bytes as servers and clients send them, good and bad
    mutations    how an input is changed
    reference    slow, obviously correct readers to compare with
    wires        transports, a pool and a server's loop without sockets
    targets      the parsers under test, and what must hold for any input; a new one is a function and a line in TARGETS
    runs         many inputs, in several processes
    guided       the same, guided by coverage, where atheris is installed
    __main__     `scripts/fuzz`

Target, seed and number determine an input, so these three identify a finding.
"""
