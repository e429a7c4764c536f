"""Timelines of whole calls in virtual time: what the client sees and when, and what becomes of every attempt.

Endpoints in a higher tier are there to make the order certain: `a` is asked first. Where nothing else is said an
endpoint that nobody knows yet is late after 2 s, which is twice its prior. Every timeline is played to its end, at
which nothing may be left (see `Player.assert_nothing_is_left`).
"""
