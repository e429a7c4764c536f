"""The house style of prose, as far as a program can check it: how a docstring opens, and which words are not used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
FILES = sorted(path for folder in ("router", "loadtest", "tests") for path in (TOP / folder).rglob("*.py"))

# A docstring names its subject. One that opens with a pronoun, a conjunction or a clause has to be read twice.
BAD_OPENING = re.compile(
    r"\W*(it|its|they|their|and|or|but|what|which|who|whom|whose|whoever|whatever|where|when|while|that|this|those|these"
    r"|he|his|she|nobody|somebody|anybody|everybody|as|for|so)\b(?!-)",
    re.IGNORECASE,
)

# Endpoints, calls and connections are not persons. A few uses for people remain.
PERSONS = re.compile(r"\b(nobody|somebody|whoever|whom)\b", re.IGNORECASE)
MAX_PERSONS = 5

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring: of the module, its classes and its functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Documented) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TOP)))
def test_docstrings_open_with_a_named_subject(path: Path) -> None:
    wrong = [
        f"{path.relative_to(TOP)}:{line}: {text.splitlines()[0]}"
        for line, text in docstrings(path.read_text(encoding="utf-8"))
        if BAD_OPENING.match(text)
    ]
    assert not wrong, "docstrings that open with a pronoun or a clause:\n" + "\n".join(wrong)


def test_the_router_does_not_call_machines_persons() -> None:
    found = [
        f"{path.relative_to(TOP)}:{number}: {line.strip()}"
        for path in sorted((TOP / "router").rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for _ in PERSONS.finditer(line)
    ]
    assert len(found) <= MAX_PERSONS, f"{len(found)} uses, at most {MAX_PERSONS}:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("docstring", "wrong"),
    [
        ("It takes what it takes.", True),
        ("“Whatever” it is.", True),
        ("What's due.", True),
        ("\n  And nothing else.", True),
        ("Itself a record.", False),
        ("The endpoint's state, as it was.", False),
        ("True if a slot is free.", False),
        ("For-loops are unrolled.", False),
        ("", False),
    ],
)
def test_an_opening_is_judged_by_its_first_word(docstring: str, wrong: bool) -> None:
    assert bool(BAD_OPENING.match(docstring)) is wrong


def test_docstrings_of_modules_classes_and_functions_are_found() -> None:
    source = '"""A."""\nclass B:\n    """B."""\n    async def c(self):\n        """C."""\n        def d(): """D."""\n'
    assert sorted(docstrings(source)) == [(1, "A."), (3, "B."), (5, "C."), (6, "D.")]
