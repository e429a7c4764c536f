"""A transcript of what a client has received of an answer: the text of each part of each choice."""

from __future__ import annotations

import msgspec

from router.core.stream.chunks import Diverged, Json, Part, choices_of, decoded, has_other_output, texts_of
from router.core.stream.events import read_token
from router.core.stream.lines import split

MAX_UNREAD = 64 << 10  # bytes of events that are kept unread: most streams never break, so most are never read
MAX_TEXT = 1 << 20  # characters of an answer that are kept for a rescue: some 250,000 tokens

Texts = dict[tuple[int, Part], list[str]]


class Transcript:
    """The events that were sent to a client, read only on demand.

    `mixed`: no second answer can be compared with this one, because it has output that is not text, or too much of it.
    """

    __slots__ = ("_noted", "_size", "begun", "facts", "finished", "mixed", "texts", "tokens")

    def __init__(self) -> None:
        self._noted: list[bytes] = []
        self._size = 0
        self.texts: dict[tuple[int, Part], str] = {}  # by choice and part
        self.facts: Json = {}  # id, created and model, from the first event that has them
        self.begun: set[int] = set()  # choices with an event that is more than text; some have only a role yet
        self.finished: set[int] = set()  # choices with a finish reason
        self.tokens = 0  # events with output, which is about the number of tokens
        self.mixed = False

    def note(self, data: bytes) -> None:
        """Add whole events that go to the client."""
        if self.mixed:
            return
        self._noted.append(data)
        self._size += len(data)
        if self._size > MAX_UNREAD:
            self.read()

    def read(self) -> None:
        """Bring all attributes up to date."""
        noted, self._noted, self._size = b"".join(self._noted), [], 0
        found: Texts = {}
        for event in split(noted):
            if not (self.facts and self._token(event, found)):
                self._event(event, found)
        for key, pieces in found.items():
            self.texts[key] = self.texts.get(key, "") + "".join(pieces)
        if sum(map(len, self.texts.values())) > MAX_TEXT:
            self.mixed, self.texts = True, {}

    def _token(self, event: bytes, found: Texts) -> bool:
        """Read an event that is only text, ten times as fast as any event; False if there is more in it."""
        try:
            (choice,) = read_token(event[6:]).choices
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if event[:6] != b"data: " or not choice.delta.content:
            return False
        found.setdefault((choice.index, ("content",)), []).append(choice.delta.content)
        self.tokens += 1
        return True

    def _event(self, event: bytes, found: Texts) -> None:
        try:
            chunk = decoded(event)
        except Diverged:
            self.mixed = True
            return
        if chunk is None:
            return
        for name in ("id", "created", "model"):
            if chunk.get(name):
                self.facts.setdefault(name, chunk[name])
        for index, choice in choices_of(chunk):
            texts = texts_of(choice)
            self.begun.add(index)
            self.tokens += any(texts.values())
            for part, text in texts.items():
                found.setdefault((index, part), []).append(text)
            if choice.get("finish_reason"):
                self.finished.add(index)
            self.mixed = self.mixed or has_other_output(choice)
        self.mixed = self.mixed or "choices" not in chunk

    @property
    def plain(self) -> str | None:
        """The text of an unfinished answer that is one text, perhaps after its reasoning; None for any other answer."""
        self.read()
        texts = {part: text for (index, part), text in self.texts.items() if index == 0}
        text = texts.pop(("content",), "") or texts.pop(("text",), "")
        alone = len(self.texts) == 1 + len(texts) and texts.keys() <= {("reasoning_content",), ("reasoning",)}
        return text if text and alone and not self.finished and not self.mixed else None
