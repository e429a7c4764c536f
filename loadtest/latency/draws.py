"""Chance that depends on nothing but names: each draw is a hash of the seed, the endpoint, the call and what it is for.

So the first-token time of a call at an endpoint is the same whether or not it is asked, in which order, and by whom.
"""

from __future__ import annotations

from hashlib import blake2b
from random import Random

DIGITS = 2**53  # as many as a float holds


def uniform(seed: int, endpoint: str, k: int, attempt: int = 0, what: str = "first token") -> float:
    """In (0, 1), both ends excluded. `attempt` counts the times that the endpoint has seen this call before."""
    name = f"{seed}/{endpoint}/{k}/{attempt}/{what}".encode()
    number = int.from_bytes(blake2b(name, digest_size=8).digest(), "big") >> 11
    return (number + 0.5) / DIGITS


def chance(seed: int, *names: str) -> Random:
    """A generator for what is drawn in a row: arrivals, sizes, the spells of an endpoint."""
    return Random(f"{seed}/{'/'.join(names)}")
