"""Events that differ from earlier ones in one plain text only are not parsed; all others are."""

from __future__ import annotations

import pytest

from router.core.stream.scanner import Scanner
from router.core.stream.template import MAX_TRIES, Template

EVENT = 'data: {"id":"1","choices":[{"index":0,"delta":{"content":%s},"finish_reason":%s}]%s}\n\n'


def event(content: str = '"word"', reason: str = "null", more: str = "") -> bytes:
    return (EVENT % (content, reason, more)).encode()


def template(one: bytes = event('"one"'), other: bytes = event('"another"')) -> Template | None:
    return Template.of(one, other)


@pytest.mark.parametrize("content", ['"x"', '"some words, and {braces}: [1]"', '"模型"', '"\x7f"', '"one"'])
def test_an_event_with_another_plain_text_fits(content: str) -> None:
    made = template()
    assert made is not None
    assert made.fits(event(content))


@pytest.mark.parametrize(
    "other",
    [
        event('""'),
        event('"a\\nb"'),
        event('"a\\"'),
        event('"a","role":"x"'),
        event("null"),
        event('"a"', '"stop"'),
        event('"a"', more=',"usage":{}'),
        event('"a"', more=',"error":"x"'),
        event('"a"')[:-1],
        event('"a"') + event('"b"'),
        event('"a"').replace(b"\n\n", b"\r\n\r\n"),
        event('"a\tb"'),
        event('"a\nb"'),
        event('"a"').replace(b"a", b"\xff"),
        event('"a"').replace(b"a", b"\xed\xa0\x80"),
        b"",
    ],
)
def test_any_other_event_does_not_fit(other: bytes) -> None:
    made = template()
    assert made is not None
    assert not made.fits(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (event('"a"', '"null"'), event('"a"', '"none"')),  # the next may say "stop"
        (event('"a"', more=',"x":"1"'), event('"b"', more=',"x":"2"')),
        (event('"a"', more=',"key1":1'), event('"a"', more=',"key2":1')),  # the next may say "error"
        (event('"a"', more=',"x":["1"]'), event('"a"', more=',"x":["2"]')),
        (event('"a"', more=',"usage":{"a":"1"}'), event('"a"', more=',"usage":{"a":"2"}')),
        (event('"a"', more=',"error":"1"'), event('"a"', more=',"error":"2"')),
        (event('"a"', '"stop"'), event('"b"', '"stop"')),
        (event('"\\"a"'), event('"\\"b"')),
        (event("1"), event("2")),
        (b"", event()),
        (b"data: {}\n\n", event()),
    ],
)
def test_no_template_is_made_where_another_string_might_matter(one: bytes, other: bytes) -> None:
    assert template(one, other) is None


def test_two_equal_events_are_a_template_of_equal_ones_only() -> None:
    made = template(event(), event())
    assert made is not None
    assert made.fits(event())
    assert not any(map(made.fits, (event('"other"'), event() + b"x", event()[:-1], b"")))


def test_a_scanner_parses_no_event_that_fits() -> None:
    scanner = Scanner()
    fed = [event(f'"word {number}"') for number in range(10)]
    assert [scanner.feed(each) for each in fed] == fed
    assert scanner.events == 10
    assert scanner._tries == MAX_TRIES - 2


def finished(*fed: bytes) -> bool:
    scanner = Scanner()
    for number in range(10):
        scanner.feed(event(f'"word {number}"'))
    for each in fed:
        scanner.feed(each)
    return scanner.finished


def test_a_finish_reason_after_fitting_events_is_seen() -> None:
    assert finished(event("null", '"stop"'))
    assert finished(event('"end"', '"stop"'))


def test_an_event_that_fits_takes_a_finish_reason_back() -> None:
    assert not finished(event("null", '"stop"'), event('"more"'))


def test_escapes_between_do_not_cost_the_template() -> None:
    scanner = Scanner()
    for number in range(100):
        scanner.feed(event(f'"word {number}"'))
        scanner.feed(event('"\\n"'))
    assert scanner.events == 200
    assert scanner._tries >= MAX_TRIES - 3


def test_a_stream_of_ever_other_events_is_tried_a_few_times_only() -> None:
    scanner = Scanner()
    for number in range(100):
        scanner.feed(event(f'"a{number}"', more=f',"x":"{number}"'))
    assert scanner._tries == 0
