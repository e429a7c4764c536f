"""The replay that compares the builds: it is the same each time, and a difference is reported by call and field."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from router.core.record import CallRecord
from router.core.verdict import Outcome, Verdict
from tests.processes import environment
from tests.replay.__main__ import compare
from tests.replay.difference import first_difference
from tests.replay.lines import OUTCOME, RECORD, Json
from tests.replay.timelines import KINDS, replay
from tests.support.attributes import attributes

TOP = Path(__file__).resolve().parent.parent
SLICE = 60  # calls, which are of all kinds
BUILD = os.environ.get("TESTED_BUILD", "pure")  # set by scripts/test --compiled


@pytest.fixture(scope="module")
def played() -> list[str]:
    return list(replay(SLICE))


def lines_of(played: list[str], what: str) -> list[Json]:
    return [facts for facts in map(json.loads, played) if what in facts]


def test_a_replay_is_the_same_when_it_is_played_again(played: list[str]) -> None:
    assert list(replay(SLICE)) == played


def test_a_replay_is_the_same_in_a_process_with_another_hash_seed(played: list[str]) -> None:
    """No order of a set, no address and no clock of the machine is in a line."""
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        [sys.executable, "-m", "tests.replay", "--calls", str(SLICE)],
        cwd=TOP,
        env=environment(PYTHONHASHSEED=seed),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    head, *lines = done.stdout.splitlines()
    assert json.loads(head) == {"build": BUILD}
    assert lines == played


def test_a_slice_has_calls_and_routers_of_all_kinds(played: list[str]) -> None:
    calls, routers = lines_of(played, "call"), lines_of(played, "timeline")
    assert len(calls) == SLICE
    assert {call["call"].split()[0] for call in calls} == set(KINDS)
    assert {router["timeline"].split()[0] for router in routers} == set(KINDS)
    attempts = [attempt for call in calls for record in call["records"] for attempt in record["attempts"]]
    assert {attempt["role"] for attempt in attempts} >= {"first", "hedge", "retry"}
    assert {attempt["outcome"]["verdict"] for attempt in attempts} >= {"SERVED", "FAULT", "ABANDONED"}


def test_a_line_has_all_attributes_of_a_record_and_of_an_outcome() -> None:
    assert set(RECORD) == set(attributes(CallRecord("req-1", "", 0.0)))
    assert set(OUTCOME) <= set(attributes(Outcome(Verdict.SERVED)))
    if BUILD == "pure":  # a compiled class shows its properties as attributes
        assert set(OUTCOME) == set(attributes(Outcome(Verdict.SERVED)))


def test_bodies_are_shown_as_lengths_and_digests_or_in_full(played: list[str]) -> None:
    short, full = (lines_of(lines, "call")[:20] for lines in (played, list(replay(20, whole=True))))
    assert [call["body"][0] for call in short] == [len(call["body"]) for call in full]
    assert any(call["body"] for call in full)


# ---- Differences

LINE: Json = {"call": "random 7, call 3", "status": 200, "body": "x" * 500, "records": [{"queued": 0.5, "error": ""}]}


@pytest.mark.parametrize(
    ("change", "field", "values"),
    [
        ({"status": 502}, "status", ("200", "502")),
        ({"status": 200.0}, "status", ("200", "200.0")),
        ({"status": True}, "status", ("200", "True")),
        (
            {"records": [{"queued": 0.5000000000000001, "error": ""}]},
            "records[0].queued",
            ("0.5", "0.5000000000000001"),
        ),
        ({"records": [{"queued": 0.5}]}, "records[0].error", ("''", "(absent)")),
        ({"records": []}, "records[0]", ("{'queued': 0.5, 'error': ''}", "(absent)")),
        ({"new": 1}, "new", ("(absent)", "1")),
    ],
)
def test_a_difference_names_the_call_the_field_and_both_values(
    change: Json, field: str, values: tuple[str, str]
) -> None:
    same, one, other = (json.dumps(each) for each in ({"call": "random 7, call 2"}, LINE, LINE | change))
    first, second = values
    assert first_difference([same, one], [same, other]) == (
        f"random 7, call 3: {field} differs\n  first:  {first}\n  second: {second}"
    )


def test_a_difference_in_a_long_text_shows_its_surroundings() -> None:
    other = LINE | {"body": "x" * 300 + "y" + "x" * 199}
    shown = first_difference([json.dumps(LINE)], [json.dumps(other)])
    assert f"'{'x' * 60}y{'x' * 59}' … (from character 240 of 500)" in shown


def test_a_replay_that_ends_early_differs() -> None:
    assert first_difference([json.dumps(LINE)], []) == "only the first replay has random 7, call 3"
    assert first_difference([], [json.dumps(LINE)]) == "only the second replay has random 7, call 3"


def test_only_replays_of_both_builds_are_compared(tmp_path: Path, played: list[str]) -> None:
    """Two replays of one build would be equal, and prove nothing."""
    files = {build: tmp_path / build for build in ("pure", "compiled")}
    for build, file in files.items():
        file.write_text("".join(f"{line}\n" for line in (json.dumps({"build": build}), *played)))
    assert compare(files["pure"], files["compiled"]) == ""
    assert "these are of ['pure', 'pure']" in compare(files["pure"], files["pure"])
    files["compiled"].write_text("".join(files["compiled"].read_text().splitlines(keepends=True)[:-1]))
    assert "only the first replay has" in compare(files["pure"], files["compiled"])
