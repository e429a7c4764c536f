"""A large request body, checked while its bytes arrive: a decoder that reads all of it at the end would hold up the
calls of all other clients.

Checked are the encoding, the nesting, and the top level of the object, whose keys and values are found. A value of up
to MAX_CHECKED bytes is decoded as soon as it is complete; of a longer one only the strings and brackets are read, and
the endpoint judges the rest. Each step costs at most some 100 ns a byte, whatever the bytes are.

    START ──{──► KEY ──"──► COLON ──:──► VALUE ──► COMMA ──}──► DONE
                  ▲                                 │
                  └────────────────,────────────────┘
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from itertools import accumulate

import msgspec

from router.core.elements import Elements

Fields = dict[str, msgspec.Raw]

LARGE = 128 << 10  # bytes from which on a body is read while it arrives, and not at once
MAX_KEYS = 1000  # keys of the object; OpenAI's API has about 40
MAX_DEPTH = 900  # of arrays and objects within another; msgspec refuses 1000
MAX_KEY = 64 << 10  # bytes
MAX_CHECKED = 128 << 10  # bytes of a value that is decoded at once: well below a millisecond
PROMPT_BEGINS = (b'"', b"[")  # with which a prompt in a list of prompts begins; else the list is one of tokens
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some tools write one before JSON; it is dropped
ATTACHMENT = b";base64,"  # precedes the data of an attachment
MAX_ATTACHMENTS = 1000  # attachments that are looked for; more count as text
WINDOW = 2 << 10  # bytes of a value in which brackets are counted at a time
TOKENS = 32  # brackets that are looked at one by one before: most values are short
PASSES = 8  # times that pairs of brackets are removed from a window, before the rest is counted one by one

_SPACE = re.compile(rb"[ \t\n\r]*+")
_SCALAR = re.compile(rb'[^ \t\n\r,:"\[\]{}]*+')
_INSIDE = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)  # the content of a string, or as much as has come
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_UP_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_WHOLE_STRINGS = re.compile(rb'(?:[^"]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = [1 if byte in b"[{" else -1 for byte in range(256)]
_OPEN, _QUOTE = b"[{", 0x22

_check = msgspec.json.Decoder(msgspec.Raw).decode
_text = msgspec.json.Decoder(str).decode


class InvalidBody(ValueError):
    """A body that cannot be routed. `code` names the fault."""

    def __init__(self, message: str, code: str = "invalid_json") -> None:
        super().__init__(message)
        self.code = code


def too_many_keys() -> InvalidBody:
    return InvalidBody(f"The request body has more than {MAX_KEYS} keys at its top level.", "too_many_keys")


def not_json(why: str) -> InvalidBody:
    return InvalidBody(f"The request body is not valid JSON: {why}.")


class Body:
    """The bytes that have come, and what was found in them. After a fault no more bytes are kept.

    `attached` is how many bytes of it are attachments in base64.
    """

    __slots__ = (
        "_at",
        "_attachment",
        "_attachments",
        "_began",
        "_begun",
        "_counted",
        "_decoder",
        "_depth",
        "_elements",
        "_error",
        "_in_string",
        "_key",
        "_keys",
        "_looked",
        "_max_checked",
        "_places",
        "_step",
        "attached",
        "data",
    )

    def __init__(self, max_checked: int = MAX_CHECKED) -> None:
        self.data = bytearray()
        self.attached = 0
        self._attachment, self._attachments, self._looked = -1, 0, 0  # where one begins; how many ended; looked so far
        self._max_checked = max_checked
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._error: InvalidBody | None = None
        self._begun = False  # a byte order mark has been looked for
        self._at = 0  # all before was read
        self._began = 0  # where the key, the value, or the string inside a value begins that is being read
        self._depth, self._in_string = 0, -1  # inside a value; where the string begins that is being read there
        self._key, self._keys = "", 0
        self._places: dict[str, tuple[int, int]] = {}
        self._elements: Elements | None = None  # of the last `prompt` that is an array
        self._counted = -1  # up to where its elements have been counted; -1 if it is not being read
        # Reads on at a byte that is no space; False if it needs more. A function, as a bound method would be a
        # reference cycle: the bytes would stay in memory until the garbage collector runs.
        self._step: Callable[[Body, int], bool] = Body._start

    def feed(self, piece: bytes) -> None:
        """Read on."""
        if self._error is not None:
            return
        data = self.data
        data += piece
        try:
            if not piece.isascii() or self._decoder.getstate()[0]:
                self._decoder.decode(piece)
            if not self._begun and not self._drop_mark():
                return
            self._look_for_attachments()
            self._read_on()
            if self._counted >= 0:
                self._count_elements(len(data))
        except UnicodeDecodeError as no_text:
            self._fail(not_json(f"it is not valid UTF-8 ({no_text.reason})"))
        except msgspec.DecodeError as error:
            self._fail(not_json(f"in the value or key that begins at byte {self._began}: {error}"))
        except RecursionError:
            self._fail(InvalidBody("The request body is nested too deeply."))
        except InvalidBody as invalid:
            self._fail(invalid)

    @property
    def prompts(self) -> int:
        """The number of prompts of a completion: texts, or lists of tokens, in a list."""
        elements = self._elements
        return elements.count if elements is not None and elements.first in PROMPT_BEGINS else 1

    def _drop_mark(self) -> bool:
        """Drop a byte order mark; False if only a part of it has come."""
        begins = bytes(self.data[: len(BYTE_ORDER_MARK)])
        self._begun = begins != BYTE_ORDER_MARK[: len(begins)] or begins == BYTE_ORDER_MARK
        if begins == BYTE_ORDER_MARK:
            del self.data[: len(begins)]
        return self._begun

    def _read_on(self) -> None:
        data = self.data
        while True:
            if self._depth == 0:
                match = _SPACE.match(data, self._at)
                self._at = match.end() if match else self._at
            if self._at >= len(data) or not self._step(self, data[self._at]):
                return

    def _count_elements(self, end: int) -> None:
        if self._elements is not None:
            self._elements.feed(bytes(self.data[self._counted : end]))
        self._counted = end

    def end(self) -> Fields:
        """The keys and the bytes of their values; of two equal keys the last one counts. Raises InvalidBody."""
        if self._error is None and self._step is not Body._done:
            self._error = not_json("it is truncated")
        if self._error is not None:
            raise InvalidBody(str(self._error), self._error.code)
        view = memoryview(self.data).toreadonly()
        return {key: msgspec.Raw(view[began:end]) for key, (began, end) in self._places.items()}

    def _look_for_attachments(self) -> None:
        """Add up the bytes of attachments, each up to its closing quote."""
        data = self.data
        while self._attachments < MAX_ATTACHMENTS:
            if self._attachment < 0:
                found = data.find(ATTACHMENT, self._looked)
                if found < 0:
                    self._looked = max(self._looked, len(data) - len(ATTACHMENT) + 1)
                    return
                self._attachment = self._looked = found + len(ATTACHMENT)
            end = data.find(b'"', self._looked)
            if end < 0:
                self._looked = len(data)
                return
            self.attached += end - self._attachment
            self._attachments, self._attachment, self._looked = self._attachments + 1, -1, end

    def _fail(self, error: InvalidBody) -> None:
        # Without its traceback, whose frames hold the bytes.
        self._error, self.data = error.with_traceback(None), bytearray()

    # Steps at the top level.

    def _start(self, byte: int) -> bool:
        if byte != 0x7B:
            raise (
                InvalidBody("The request body must be a JSON object.")
                if byte in b'["-0123456789tfn'
                else self._unexpected()
            )
        return self._next(Body._first_key)

    def _first_key(self, byte: int) -> bool:
        return self._next(Body._done) if byte == 0x7D else self._begin_key(byte)

    def _begin_key(self, byte: int) -> bool:
        if byte != _QUOTE:
            raise self._unexpected()
        self._keys += 1
        if self._keys > MAX_KEYS:
            raise too_many_keys()
        self._began = self._at
        self._in_string, self._depth = self._at, 1
        return self._next(Body._key_goes_on)

    def _key_goes_on(self, _: int) -> bool:
        if self._at - self._began > MAX_KEY:
            raise not_json(f"a key is longer than {MAX_KEY} bytes")
        if not self._read_string():
            return False
        self._key, self._depth = _text(bytes(self.data[self._began : self._at])), 0
        self._step = Body._colon
        return True

    def _colon(self, byte: int) -> bool:
        if byte != 0x3A:
            raise self._unexpected()
        return self._next(Body._value)

    def _value(self, byte: int) -> bool:
        self._began = self._at
        if self._key == "prompt":
            self._elements, self._counted = (Elements(), self._at + 1) if byte == 0x5B else (None, -1)
        if byte == _QUOTE:
            self._in_string, self._depth = self._at, 1
            return self._next(Body._text_goes_on)
        if byte in _OPEN:
            self._depth = 1
            return self._next(Body._container_goes_on)
        return self._scalar()

    def _comma(self, byte: int) -> bool:
        if byte == 0x2C:
            return self._next(Body._begin_key)
        if byte == 0x7D:
            return self._next(Body._done)
        raise self._unexpected()

    def _done(self, _: int) -> bool:
        raise not_json(f"trailing characters (byte {self._at})")

    def _next(self, step: Callable[[Body, int], bool]) -> bool:
        self._at += 1
        self._step = step
        return True

    def _unexpected(self) -> InvalidBody:
        return not_json(f"unexpected character (byte {self._at})")

    # Steps inside a value.

    def _scalar(self) -> bool:
        match = _SCALAR.match(self.data, self._at)
        end = match.end() if match else self._at
        if end - self._began > MAX_CHECKED:
            raise not_json(f"a number is longer than {MAX_CHECKED} bytes (byte {self._began})")
        if end == len(self.data):
            return False  # it may go on; it is read again from its beginning, which is near
        self._at = end
        _check(bytes(self.data[self._began : end]))
        return self._end_value()

    def _text_goes_on(self, _: int) -> bool:
        return self._read_string() and self._end_value()

    def _read_string(self) -> bool:
        """Read on inside a string; True after its end."""
        match = _INSIDE.match(self.data, self._at)
        self._at = match.end() if match else self._at
        if self._at == len(self.data) or self.data[self._at] != _QUOTE:
            return False  # at its end there may be half an escape
        self._in_string = -1
        self._at += 1
        return True

    def _container_goes_on(self, _: int) -> bool:
        if self._in_string >= 0:
            return self._read_string()
        if self._read_tokens(TOKENS):
            return self._end_value()
        size = len(self.data)
        while self._in_string < 0 and self._at < size and self._read_window():
            pass
        if self._in_string < 0 and self._read_tokens(size):
            return self._end_value()
        return self._in_string >= 0 and self._at < size

    def _read_tokens(self, most: int) -> bool:
        """Read up to so many brackets; True after the one that ends the value.

        Stops at the end of what has come, and inside a string that ends later.
        """
        data, at, depth, match = self.data, self._at, self._depth, _UP_TO_BRACKET.match
        size = len(data)
        for _ in range(most):
            found = match(data, at)
            at = found.end() if found else at
            if at == size:
                break
            byte = data[at]
            at += 1
            if byte == _QUOTE:
                self._in_string = at - 1
                break
            if byte in _OPEN:
                depth += 1
                if depth > MAX_DEPTH:
                    raise RecursionError
            else:
                depth -= 1
                if depth == 0:
                    break
        self._at, self._depth = at, depth
        return depth == 0

    def _read_window(self) -> bool:
        """Read a window in which the value does not end; False if it may end there, or if a long string begins."""
        match = _WHOLE_STRINGS.match(self.data, self._at, self._at + WINDOW)
        if match is None or match.end() == self._at:
            return False
        brackets = _STRINGS.sub(b"", match[0]).translate(None, _NO_BRACKETS)
        before, passes = b"", 0
        while before != brackets and passes < PASSES:
            before, passes = brackets, passes + 1
            brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
        depths = list(accumulate(map(_STEP.__getitem__, brackets), initial=self._depth))
        if min(depths) <= 0:
            return False
        if max(depths) > MAX_DEPTH:
            raise RecursionError
        self._at, self._depth = match.end(), depths[-1]
        return True

    def _end_value(self) -> bool:
        end, self._depth = self._at, 0
        if self._counted >= 0:
            self._count_elements(end)
            self._counted = -1
        if end - self._began <= self._max_checked:
            _check(bytes(self.data[self._began : end]))
        self._places[self._key] = (self._began, end)
        self._step = Body._comma
        return True
