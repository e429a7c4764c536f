"""What a client has of an answer that broke, and how another endpoint's stream is made to go on from there.

    Transcript      notes what is passed on to the client: the text of each part of each choice
    Replay          the whole answer once more: what the client has is held back, and must be the same
    Continuation    an endpoint was given the client's text to go on from: what it adds, without an echo at the seam

The latter two take whole events and give those that the client may see, under the id of its first ones. They raise
Diverged where the two can't be made one answer. Here alone events are rebuilt: two streams become one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from router.core.stream.scanner import data_of, split

Part = tuple[str | int, ...]  # where a text stands in a choice: ("content",), or ("tool_calls", 0, "arguments")
Shape = dict[str, Any]

DIGEST = 64 << 10  # bytes of events that wait to be read: most streams never break, and are never read
MOST = 1 << 20  # characters of an answer that are kept for a rescue: some 250,000 tokens
SEAM = 50  # characters at the beginning of a continuation that are looked at before they are passed on
ECHO = 12  # characters at the least that are no chance, when they stand on both sides of the seam
AGAIN = 24  # characters, or all that there are, with which an answer begins that was begun again

_OF_A_CALL = frozenset(("index", "id", "type", "function"))  # to a tool that is a function

_decode, _encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode


class Diverged(ValueError):
    """The other stream is no part of the same answer; the message says why."""


class _Content(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A delta with nothing beside it, though many say so by name."""

    content: str
    role: str | None = None
    refusal: None = None
    reasoning_content: None = None
    reasoning: None = None
    tool_calls: None = None
    function_call: None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Content
    index: int = 0
    text: None = None
    finish_reason: None = None


class _Token(msgspec.Struct, gc=False):
    """What nearly every event is; one that is more can't be read as one."""

    choices: tuple[_Choice]


_read_token = msgspec.json.Decoder(_Token).decode


class Transcript:
    """What a client was sent of an answer, read only when it is asked for.

    `mixed`: there is output in it that is no text, or too much of it, so that nothing can be held against it.
    """

    __slots__ = ("_noted", "_size", "begun", "facts", "finished", "mixed", "texts", "tokens")

    def __init__(self) -> None:
        self._noted: list[bytes] = []
        self._size = 0
        self.texts: dict[tuple[int, Part], str] = {}  # by choice and part
        self.facts: Shape = {}  # id, created and model, as its first event has them
        self.begun: set[int] = set()  # choices that more than a token was said of: some have only a role yet
        self.finished: set[int] = set()  # choices that have a reason to finish
        self.tokens = 0  # events with output: about as many
        self.mixed = False

    def note(self, data: bytes) -> None:
        """Whole events that go to the client."""
        if self.mixed:
            return
        self._noted.append(data)
        self._size += len(data)
        if self._size > DIGEST:
            self.read()

    def read(self) -> None:
        """Bring all that is told of it up to date."""
        noted, self._noted, self._size = b"".join(self._noted), [], 0
        said: dict[tuple[int, Part], list[str]] = {}
        for event in split(noted):
            if not (self.facts and self._token(event, said)):
                self._event(event, said)
        for key, pieces in said.items():
            self.texts[key] = self.texts.get(key, "") + "".join(pieces)
        if sum(map(len, self.texts.values())) > MOST:
            self.mixed, self.texts = True, {}

    def _token(self, event: bytes, said: dict[tuple[int, Part], list[str]]) -> bool:
        """The quick way for a mere token, ten times as fast; False where it is more."""
        try:
            (choice,) = _read_token(event[6:]).choices
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if event[:6] != b"data: " or not choice.delta.content:
            return False
        said.setdefault((choice.index, ("content",)), []).append(choice.delta.content)
        self.tokens += 1
        return True

    def _event(self, event: bytes, said: dict[tuple[int, Part], list[str]]) -> None:
        try:
            shape = _shape(event)
        except Diverged:
            self.mixed = True
            return
        if shape is None:
            return
        for name in ("id", "created", "model"):
            if shape.get(name):
                self.facts.setdefault(name, shape[name])
        for index, choice in _choices(shape):
            texts = _texts(choice)
            self.begun.add(index)
            self.tokens += any(texts.values())
            for part, text in texts.items():
                said.setdefault((index, part), []).append(text)
            if choice.get("finish_reason"):
                self.finished.add(index)
            self.mixed = self.mixed or _has_more(choice)
        self.mixed = self.mixed or "choices" not in shape

    @property
    def plain(self) -> str | None:
        """The text of an answer that is one text, perhaps after its reasoning, and not at its end; None of others."""
        self.read()
        texts = {part: text for (index, part), text in self.texts.items() if index == 0}
        text = texts.pop(("content",), "") or texts.pop(("text",), "")
        alone = len(self.texts) == 1 + len(texts) and texts.keys() <= {("reasoning_content",), ("reasoning",)}
        return text if text and alone and not self.finished and not self.mixed else None


class Replay:
    """`feed` gives what follows what the client has now, once all of that was seen again."""

    __slots__ = ("_begun", "_facts", "_finished", "_seen", "_texts", "caught_up")

    def __init__(self, had: Transcript) -> None:
        had.read()
        if had.mixed:
            raise Diverged("it has output that can't be compared")
        self._texts, self._finished = had.texts.copy(), had.finished.copy()  # what follows is noted there, too
        self._facts = {name: value for name, value in had.facts.items() if name != "model"}
        self._begun = had.begun.union(index for index, _ in had.texts)
        self._seen = dict.fromkeys(had.texts, 0)
        self.caught_up = False

    def feed(self, data: bytes) -> bytes:
        return b"".join([self._event(event) for event in split(data)])

    def finish(self) -> bytes:
        """Its stream has ended."""
        if not self.caught_up:
            raise Diverged("it is shorter")
        return b""

    def _event(self, event: bytes) -> bytes:
        shape = _shape(event)
        if shape is None:  # a comment, or [DONE]
            return (b"" if event[:1] == b":" else self.finish()) + event + b"\n\n"
        choices = [left for index, choice in _choices(shape) if (left := self._choice(index, choice)) is not None]
        self.caught_up = self.caught_up or all(map(self._covered, {index for index, _ in self._seen}))
        if not choices and (shape.get("choices") or not self.caught_up):
            return b""
        return _event(shape | self._facts | {"choices": choices})

    def _choice(self, index: int, choice: Shape) -> Shape | None:
        """What the client lacks of it."""
        was_covered, finish = self._covered(index), choice.get("finish_reason")
        if not was_covered and _has_more(choice):
            raise Diverged("it has output that can't be compared")
        texts = _texts(choice)
        lacks = {part: rest for part, text in texts.items() if (rest := self._rest((index, part), text))}
        if (lacks or finish) and not self._covered(index):
            raise Diverged("it is shorter" if finish else "its parts come in another order")
        if index in self._finished:
            if lacks:
                raise Diverged("it is longer")
            return None
        if choice.get("logprobs") and 0 < len("".join(lacks.values())) < len("".join(texts.values())):
            raise Diverged("its tokens are others")
        if index not in self._begun:
            return choice  # the client has nothing of it
        return _without(choice, lacks, {part for of, part in self._seen if of == index}, more=was_covered)

    def _rest(self, key: tuple[int, Part], text: str) -> str:
        """Hold it against what the client has at that place; what goes on behind that is given."""
        had, seen = self._texts.get(key, ""), self._seen.get(key, 0)
        same = had[seen : seen + len(text)]
        if not text.startswith(same):
            raise Diverged("its text is another")
        if same:
            self._seen[key] = seen + len(same)
        return text[len(same) :]

    def _covered(self, index: int) -> bool:
        """All that the client has of a choice was seen again."""
        return all(seen == len(self._texts[key]) for key, seen in self._seen.items() if key[0] == index)


class Continuation:
    """`feed` gives what the endpoint adds; `given` is the text that it was asked to go on from."""

    __slots__ = ("_beginning", "_facts", "_given", "_last", "_text", "_tokens")

    def __init__(self, had: Transcript, given: str) -> None:
        text = had.plain
        if text is None:
            raise Diverged("it is more than a text")
        self._text, self._given, self._facts, self._tokens = text, given, had.facts.copy(), had.tokens
        self._beginning: str | None = ""  # what has come of it; None once it was looked at
        self._last: Shape = {}

    def feed(self, data: bytes) -> bytes:
        return b"".join([self._event(event) for event in split(data)])

    def finish(self) -> bytes:
        """Its stream has ended, perhaps within what is looked at."""
        if not self._beginning:
            return b""
        _, last = next(iter(_choices(self._last)))
        return _event(self._last | {"choices": [_with_text({**last, "finish_reason": None}, self._seam())]})

    def _event(self, event: bytes) -> bytes:
        shape = _shape(event)
        if shape is None:  # a comment, or [DONE]
            return (b"" if event[:1] == b":" else self.finish()) + event + b"\n\n"
        shape |= self._facts
        if isinstance(shape.get("usage"), dict):
            shape["usage"] = _added_up(shape["usage"], self._tokens)
        choices = [choice for _, choice in _choices(shape)]
        for choice in choices:
            if isinstance(choice.get("delta"), dict):
                choice["delta"].pop("role", None)
        if self._beginning is None or not choices:
            return _event(shape)
        return self._begin(shape, choices[0])

    def _begin(self, shape: Shape, choice: Shape) -> bytes:
        """Gather until there is enough to see whether it repeats what the client has."""
        texts = _texts(choice)
        if any(part[0] in ("reasoning", "reasoning_content") for part in texts):
            raise Diverged("it began to reason")
        part: Part = ("text",) if "text" in choice else ("content",)
        self._beginning = (self._beginning or "") + texts.pop(part, "")
        self._last = shape
        if not texts and not choice.get("finish_reason") and len(self._beginning) < SEAM:
            return b""
        return _event(shape | {"choices": [_with_text(choice, self._seam())]})

    def _seam(self) -> str:
        """The beginning, without what the client has."""
        new, self._beginning = self._beginning or "", None
        beginning = self._text.strip()[:AGAIN]
        if len(beginning) > 1 and new.lstrip().startswith(beginning):
            raise Diverged("it began the answer again")
        # White space at the end was not given to it: a template may add its own, and a token may begin with it.
        space = self._text[len(self._given) :]
        if space and new.startswith(space):
            return new[len(space) :]
        for length in range(min(SEAM, len(new), len(self._text)), ECHO - 1, -1):
            if self._text.endswith(new[:length]):
                return new[length:]
        return new


# ---- Shapes


def _shape(event: bytes) -> Shape | None:
    """An event's JSON; None of a comment and of [DONE]."""
    data = data_of(event)
    if not data or data[:6] == b"[DONE]":
        return None
    try:
        shape = _decode(data)
    except (
        msgspec.DecodeError,
        UnicodeDecodeError,
        RecursionError,
    ):  # half a character, 1e999: the scanner looks past it
        raise Diverged("it has output that can't be read") from None
    if not isinstance(shape, dict) or not isinstance(shape.get("choices", []), list | None):
        raise Diverged("it has output in a shape of its own")
    return shape


def _event(shape: Shape) -> bytes:
    return b"data: " + _encode(shape) + b"\n\n"


def _choices(shape: Shape) -> Iterable[tuple[int, Shape]]:
    for choice in shape.get("choices") or ():
        if isinstance(choice, dict):
            index = choice.get("index")
            yield index if isinstance(index, int) else 0, choice


def _texts(choice: Shape) -> dict[Part, str]:
    """Where there is text in it, and which. A tool call is there as soon as it has begun, with a name of no letters."""
    delta = choice.get("delta")
    begun: dict[Part, str] = {}
    found: dict[Part, str] = {}
    if isinstance(choice.get("text"), str):
        found["text",] = choice["text"]
    if isinstance(delta, dict):
        for name, value in delta.items():
            if name == "tool_calls":
                for place, call in _calls(delta):
                    begun[name, place, "name"] = ""
                    found |= {(name, place, key): text for key, text in _function(call.get("function"))}
            elif name == "function_call":
                found |= {(name, key): text for key, text in _function(value)}
            elif isinstance(value, str) and name != "role":
                found[name,] = value
    return begun | {part: text for part, text in found.items() if text}


def _has_more(choice: Shape) -> bool:
    """Whether there is output in it that is no text: audio, say, or a call of another kind of tool."""
    delta = choice.get("delta")
    if delta is None:
        return False
    if not isinstance(delta, dict):
        return True
    others = (value for name, value in delta.items() if name not in ("tool_calls", "function_call"))
    return any(value and not isinstance(value, str) for value in others) or not all(
        _is_text(call) for _, call in _calls(delta)
    )


def _is_text(call: Shape) -> bool:
    """It calls a function, by a name and with arguments that are texts."""
    function = call.get("function") or {}
    if not isinstance(function, dict) or not all(isinstance(value, str) for value in function.values() if value):
        return False
    return not any(value for name, value in call.items() if name not in _OF_A_CALL)


def _without(choice: Shape, lacks: dict[Part, str], known: set[Part], *, more: bool) -> Shape | None:
    """A choice of which the client has a part: its texts as far as it lacks them, and nothing that is said once.

    `more`: what is no text is for the client, too.
    """
    left = dict(choice)
    if "text" in left:
        left["text"] = lacks.get(("text",), "")
    delta = choice.get("delta")
    if isinstance(delta, dict):
        new: Shape = {}
        for name, value in delta.items():
            if name == "tool_calls":
                calls = [
                    rest for at, call in _calls(delta) if (rest := _call_without(at, call, lacks, known)) is not None
                ]
                new |= {name: calls} if calls else {}
            elif name == "function_call":
                function = {str(part[1]): text for part, text in lacks.items() if part[0] == name}
                new |= {name: function} if function else {}
            elif isinstance(value, str):
                new |= {name: lacks[name,]} if (name,) in lacks else {}
            elif more:
                new[name] = value
        left["delta"] = new
    return left if lacks or left.get("finish_reason") or (more and left.get("delta")) else None


def _call_without(place: int, call: Shape, lacks: dict[Part, str], known: set[Part]) -> Shape | None:
    """Of one that the client knows the id is said: an SDK would write a second one behind the first."""
    if not any(part[:2] == ("tool_calls", place) for part in known):
        return call
    rest = {str(part[2]): text for part, text in lacks.items() if part[:2] == ("tool_calls", place)}
    return {"index": place, "function": rest} if rest else None


def _calls(delta: Shape) -> Iterable[tuple[int, Shape]]:
    calls = delta.get("tool_calls")
    for place, call in enumerate(calls if isinstance(calls, list) else ()):
        if isinstance(call, dict):
            index = call.get("index")
            yield index if isinstance(index, int) else place, call


def _function(function: object) -> Iterable[tuple[str, str]]:
    if isinstance(function, dict):
        yield from ((key, value) for key, value in function.items() if isinstance(value, str))


def _with_text(choice: Shape, text: str) -> Shape:
    if "text" in choice:
        return {**choice, "text": text}
    delta = choice.get("delta")
    return {**choice, "delta": {**(delta if isinstance(delta, dict) else {}), "content": text}}


def _added_up(usage: Shape, before: int) -> Shape:
    """As if one endpoint had given the whole answer: what stood before was a part of its prompt, and is none."""
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return usage
    prompt, completion = max(0, prompt - before), completion + before
    return usage | {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
