"""Makes text from outside fit for a message or a log line: bounded, on one line, without control characters or keys."""

from __future__ import annotations

import re

MAX_QUOTE = 200  # characters of an endpoint's text that a message or a log line repeats
MASK = "***"

# C0 and C1 controls, DEL, separators of lines; the marks that change the direction of text; halves of surrogate pairs,
# which no UTF-8 has. Any of them can forge a line, or hide or reorder what a terminal or a page shows.
UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
# Text that looks like a key, wherever it comes from: a known prefix, or what follows `Bearer`.
_KEY = re.compile(
    r"(?i:\bbearer\s+)[^\s\"',;]{4,}"
    r"|\b(?:sk|pk|rk|gsk|xai|hf|key|tgp|nvapi|pplx|fw|csk|ghp|glpat)[-_][A-Za-z0-9_-]{3,}"
    r"|\bAIza[A-Za-z0-9_-]{10,}|\beyJ[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]+)*"
)


def escaped(text: str) -> str:
    """The text with its unsafe characters as Python escapes (`\\n`, `\\x1b`, `\\u202e`)."""
    if text.isascii() and text.isprintable():
        return text
    return UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def quoted(text: str, limit: int = MAX_QUOTE) -> str:
    """An excerpt of an endpoint's text: one line of at most `limit` characters, escaped, without any keys in it."""
    text = text[: limit + 2000]  # a key across the limit must be seen whole to be masked
    text = " ".join(_KEY.sub(MASK, text).split())
    return escaped(text if len(text) <= limit else text[: limit - 1].rstrip() + "…")
