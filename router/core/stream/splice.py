"""Joins the stream of a second endpoint to an answer that broke.

    Replay          the second endpoint gives the whole answer again: what the client has is withheld, and must be equal
    Continuation    the second endpoint continues the client's text: an overlap at the seam is removed

Both take whole events and return those to forward, under the id of the first endpoint's events. Both raise Diverged if
the two streams cannot be joined to one answer. Only here are events rebuilt: two streams become one.
"""

from __future__ import annotations

from router.core.stream.chunks import (
    Diverged as Diverged,  # also for the callers of `feed`
)
from router.core.stream.chunks import (
    Json,
    Part,
    choices_of,
    combined_usage,
    decoded,
    encoded,
    has_other_output,
    reduced,
    texts_of,
    with_text,
)
from router.core.stream.lines import split
from router.core.stream.transcript import Transcript

SEAM = 50  # characters at the beginning of a continuation that are compared before any are forwarded
MIN_OVERLAP = 12  # characters on both sides of the seam that are no coincidence
RESTART = 24  # characters of the answer's beginning (or all, if it is shorter) that reveal an answer begun again


class Replay:
    """Follows a second answer until it has all that the client has; `feed` returns what comes after that.

    `caught_up`: the second answer has repeated all that the client has.
    """

    __slots__ = ("_begun", "_facts", "_finished", "_seen", "_texts", "caught_up")

    def __init__(self, had: Transcript) -> None:
        had.read()
        if had.mixed:
            raise Diverged("the answer has output that cannot be compared")
        self._texts, self._finished = had.texts.copy(), had.finished.copy()  # `had` grows with what is forwarded
        self._facts = {name: value for name, value in had.facts.items() if name != "model"}
        self._begun = had.begun.union(index for index, _ in had.texts)
        self._seen = dict.fromkeys(had.texts, 0)
        self.caught_up = False

    def feed(self, data: bytes) -> bytes:
        return b"".join([self._event(event) for event in split(data)])

    def finish(self) -> bytes:
        """The second stream has ended."""
        if not self.caught_up:
            raise Diverged("the second answer is shorter")
        return b""

    def _event(self, event: bytes) -> bytes:
        chunk = decoded(event)
        if chunk is None:  # a comment, or [DONE]
            return (b"" if event[:1] == b":" else self.finish()) + event + b"\n\n"
        choices = [left for index, choice in choices_of(chunk) if (left := self._choice(index, choice)) is not None]
        self.caught_up = self.caught_up or all(map(self._covered, {index for index, _ in self._seen}))
        if not choices and (chunk.get("choices") or not self.caught_up):
            return b""
        return encoded(chunk | self._facts | {"choices": choices})

    def _choice(self, index: int, choice: Json) -> Json | None:
        """The rest of a choice that the client does not have."""
        was_covered, finish = self._covered(index), choice.get("finish_reason")
        if not was_covered and has_other_output(choice):
            raise Diverged("the second answer has output that cannot be compared")
        texts = texts_of(choice)
        missing = {part: rest for part, text in texts.items() if (rest := self._rest((index, part), text))}
        if (missing or finish) and not self._covered(index):
            raise Diverged(f"the second answer {'is shorter' if finish else 'has its parts in another order'}")
        if index in self._finished:
            if missing:
                raise Diverged("the second answer is longer")
            return None
        if choice.get("logprobs") and 0 < len("".join(missing.values())) < len("".join(texts.values())):
            raise Diverged("the second answer has other tokens")
        if index not in self._begun:
            return choice  # the client has nothing of it
        return reduced(choice, missing, {part for of, part in self._seen if of == index}, others=was_covered)

    def _rest(self, key: tuple[int, Part], text: str) -> str:
        """Compare a text with what the client has at its place; return what goes beyond that."""
        had, seen = self._texts.get(key, ""), self._seen.get(key, 0)
        same = had[seen : seen + len(text)]
        if not text.startswith(same):
            raise Diverged("the second answer has another text")
        if same:
            self._seen[key] = seen + len(same)
        return text[len(same) :]

    def _covered(self, index: int) -> bool:
        """True if the second answer has repeated all that the client has of a choice."""
        return all(seen == len(self._texts[key]) for key, seen in self._seen.items() if key[0] == index)


class Continuation:
    """Appends what a second endpoint adds to the client's text; `given` is the text that it was given to continue."""

    __slots__ = ("_beginning", "_facts", "_given", "_last", "_text", "_tokens")

    def __init__(self, had: Transcript, given: str) -> None:
        text = had.plain
        if text is None:
            raise Diverged("the answer is more than a text")
        self._text, self._given, self._facts, self._tokens = text, given, had.facts.copy(), had.tokens
        self._beginning: str | None = ""  # the second text, as far as it came; None once it was compared
        self._last: Json = {}

    def feed(self, data: bytes) -> bytes:
        return b"".join([self._event(event) for event in split(data)])

    def finish(self) -> bytes:
        """The second stream has ended, perhaps before its beginning was compared."""
        if not self._beginning:
            return b""
        _, last = next(iter(choices_of(self._last)))
        return encoded(self._last | {"choices": [with_text({**last, "finish_reason": None}, self._seam())]})

    def _event(self, event: bytes) -> bytes:
        chunk = decoded(event)
        if chunk is None:  # a comment, or [DONE]
            return (b"" if event[:1] == b":" else self.finish()) + event + b"\n\n"
        chunk |= self._facts
        if isinstance(chunk.get("usage"), dict):
            chunk["usage"] = combined_usage(chunk["usage"], self._tokens)
        choices = [choice for _, choice in choices_of(chunk)]
        for choice in choices:
            if isinstance(choice.get("delta"), dict):
                choice["delta"].pop("role", None)
        if self._beginning is None or not choices:
            return encoded(chunk)
        return self._begin(chunk, choices[0])

    def _begin(self, chunk: Json, choice: Json) -> bytes:
        """Collect text until there is enough to tell whether it repeats what the client has."""
        texts = texts_of(choice)
        if any(part[0] in ("reasoning", "reasoning_content") for part in texts):
            raise Diverged("the second answer begins with reasoning")
        part: Part = ("text",) if "text" in choice else ("content",)
        self._beginning = (self._beginning or "") + texts.pop(part, "")
        self._last = chunk
        if not texts and not choice.get("finish_reason") and len(self._beginning) < SEAM:
            return b""
        return encoded(chunk | {"choices": [with_text(choice, self._seam())]})

    def _seam(self) -> str:
        """The beginning of the second text without what the client has."""
        new, self._beginning = self._beginning or "", None
        beginning = self._text.strip()[:RESTART]
        if len(beginning) > 1 and new.lstrip().startswith(beginning):
            raise Diverged("the second answer begins again")
        # White space at the end of the text was not given: a template may add its own, and a token may begin with it.
        space = self._text[len(self._given) :]
        if space and new.startswith(space):
            return new[len(space) :]
        for length in range(min(SEAM, len(new), len(self._text)), MIN_OVERLAP - 1, -1):
            if self._text.endswith(new[:length]):
                return new[length:]
        return new
