"""The demand of a call: the kind of output that its client waits for, and the size of its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

# Each kind has a scale of its own: the first token of a stream, a complete answer, an embedding.
DemandKind = Literal["first_token", "answer", "embedding"]
KINDS: Sequence[DemandKind] = ("first_token", "answer", "embedding")


class Demand:
    """`size` is the estimated number of tokens of the prompt. Treated as immutable."""

    __slots__ = ("kind", "size")

    def __init__(self, kind: DemandKind, size: float = 0.0) -> None:
        self.kind, self.size = kind, size

    def __repr__(self) -> str:
        return f"<Demand {self.kind} {self.size:g}>"


FIRST_TOKEN = Demand("first_token")
