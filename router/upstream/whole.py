"""Reads a complete answer that does not stream: whether it is an answer at all, its usage, and how it ended."""

from __future__ import annotations

from typing import Any

import msgspec

from router.core.call import Operation
from router.core.stream.events import (
    Answer,
    Embeddings,
    Error,
    Vectors,
    convert,
    decoded,
    has_output,
    read_answer,
    read_embeddings,
    read_leniently,
)
from router.core.stream.finish import GOOD, failure, has_finish


def read_whole(operation: Operation, body: bytes) -> Answer | Embeddings | Vectors | None:
    """The answer in a body; None if it is JSON of another form. Raises ValueError if it is not even that.

    The typed decoder alone does not check that: it skips strings that are not asked for, and stops at another form.
    """
    embeds = operation == "embeddings"
    try:
        if not body.isascii():
            body.decode()
        return read_embeddings(body) if embeds else read_answer(body)
    except Error:
        value = read_leniently(body)
    try:
        return convert(value, Embeddings) if embeds else convert(value, Answer)
    except msgspec.ValidationError:
        return None


def says_something(choices: list[Any], body: bytes) -> bool:
    """True if a choice has a finish reason (an empty message is an answer then), or output."""
    return any(has_finish(choice.finish_reason) for choice in choices) or has_output(decoded(body))


def failed_choice(choices: list[Any]) -> dict[str, str] | None:
    """The error of the first choice whose finish reason stands for one."""
    for choice in choices:
        reason = choice.finish_reason
        if reason and reason not in GOOD and (error := failure(reason)) is not None:
            return error
    return None
