"""Random draws that depend only on names: each is a hash of the seed, the endpoint, the call and the purpose.

The first-token time of a call at an endpoint is therefore the same for every router and every order of attempts.
"""

from __future__ import annotations

from hashlib import blake2b
from random import Random

DIGITS = 2**53  # distinct values: the precision of a float


def uniform(seed: int, endpoint: str, k: int, attempt: int = 0, what: str = "first token") -> float:
    """A number in (0, 1), both ends excluded. `attempt` counts the earlier attempts of this call at the endpoint."""
    name = f"{seed}/{endpoint}/{k}/{attempt}/{what}".encode()
    number = int.from_bytes(blake2b(name, digest_size=8).digest(), "big") >> 11
    return (number + 0.5) / DIGITS


def chance(seed: int, *names: str) -> Random:
    """A generator for sequences of draws: arrivals, sizes, the spells of an endpoint."""
    return Random(f"{seed}/{'/'.join(names)}")
