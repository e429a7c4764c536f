"""Timelines of whole calls in virtual time: what the client sees and when, and how every attempt ends.

Tiers make the order certain: `a` is asked first. Unless a test says otherwise, an attempt at an endpoint without
measurements is late after 2 s, twice the prior. Every timeline is played to its end, when nothing may be left (see
`Player.assert_nothing_is_left`).
"""
