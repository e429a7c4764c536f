"""Replays of calls in virtual time, written as lines: two builds of the router behave the same if the lines are equal.

timelines.py    the calls: seeded, of three kinds
wires.py        a router between transports without sockets, for the calls that are recorded bytes
lines.py        one line for each call and each timeline, with all that the client got and all that was recorded
difference.py   the first difference between two replays
"""
