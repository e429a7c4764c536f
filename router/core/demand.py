"""The demand of a call: the operation, the kind of output that its client waits for, and the size of its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

# Each kind has a scale of its own: the first token of a stream, a complete answer, an embedding.
DemandKind = Literal["first_token", "answer", "embedding"]
KINDS: Sequence[DemandKind] = ("first_token", "answer", "embedding")


MAX_HASHED = 1 << 20  # bytes of a body that are hashed, in about half a millisecond; of longer ones both ends are

# The fingerprint of a demand without a body: of any request.
ANY_REQUEST = 0


class Demand:
    """One call's demand: there is one object a call. `size` is the estimated number of tokens of the prompt.

    `operation` is the API operation; `body` are the bytes of the request, by which two requests are told apart. Treated
    as immutable.
    """

    __slots__ = ("_body", "_fingerprint", "kind", "operation", "size")

    def __init__(
        self, kind: DemandKind, size: float = 0.0, operation: str = "chat/completions", body: bytes | bytearray = b""
    ) -> None:
        self.kind, self.size, self.operation = kind, size, operation
        self._body: bytes | bytearray | None = body

    def __repr__(self) -> str:
        return f"<Demand {self.kind} {self.size:g}>"

    @property
    def fingerprint(self) -> int:
        """Equal for equal requests; for others it differs, except by chance. The body is not kept any longer."""
        body = self._body
        if body is not None:
            self._fingerprint, self._body = _fingerprint(body), None
        return self._fingerprint


def _fingerprint(body: bytes | bytearray) -> int:
    if len(body) <= MAX_HASHED:
        return hash(bytes(body))  # 0 if it is empty
    half = MAX_HASHED // 2
    return hash((len(body), bytes(body[:half]), bytes(body[-half:])))


FIRST_TOKEN = Demand("first_token")
