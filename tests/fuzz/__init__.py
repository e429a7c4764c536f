"""Fuzzing: recorded streams, answers and requests, changed at random, given to what reads them in the router.

    corpus       what is changed: bytes as servers and clients send them, good and bad
    mutations    how
    reference    slow readers that are obviously right, to compare with
    wires        transports, a pool and a server's loop that are only objects
    targets      who is given it, and what must hold whatever it was; a new one is a function and a line in TARGETS
    runs         many inputs, in several processes
    guided       the same, guided by coverage, where atheris is installed
    __main__     `scripts/fuzz`

An input is decided by its target, the run's seed and its number, so that a finding is told by those three.
"""
