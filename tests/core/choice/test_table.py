"""The routing table, and what a new table takes over from the old one: what was learned, not what was configured."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from textwrap import dedent, indent

import pytest

from router import config
from router.core.choice.table import Table, rebuild
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.waiting_queue import QueueEntry
from router.core.verdict import Outcome, Verdict
from tests.core.helpers import T, trip


def entry(name: str, **settings: object) -> str:
    """The entry of one endpoint in the configuration file."""
    lines = {"name": name, "base_url": f"http://{settings.pop('host', name)}/v1", "models": "{chat: m}", **settings}
    return "\n".join(f"{key}: {value}" for key, value in lines.items())


def table(*entries: str, rest: str = "", old: Table | None = None, **environ: str) -> Table:
    listed = "".join("- " + indent(text, "  ").lstrip() + "\n" for text in entries)
    return rebuild(config.parse(f"{dedent(rest)}\nendpoints:\n{listed}", "f.yaml", environ), old)


def named(of: Table, name: str, model: str = "chat") -> Endpoint:
    (found,) = [e for e in of.routes[model].endpoints if e.name == name]
    return found


def names(of: Table, model: str = "chat") -> list[list[str]]:
    return [[e.name for e in tier.endpoints] for tier in of.routes[model].tiers]


# What is configured.


def test_tiers_are_ordered_by_number_and_their_endpoints_as_in_the_file() -> None:
    assert names(table(entry("c", tier=9), entry("a", tier=2), entry("d", tier=9), entry("b"))) == [
        ["b"],
        ["a"],
        ["c", "d"],
    ]


def test_each_model_has_a_route_over_its_endpoints() -> None:
    made = table(entry("a", models="{chat: m, code: n}"), entry("b", models="[code]"))
    assert (names(made, "chat"), names(made, "code")) == ([["a"]], [["a", "b"]])
    assert [(e.name, e.model) for e in made.endpoints] == [("a", "m"), ("a", "n"), ("b", "code")]


def test_two_names_of_one_upstream_model_share_an_endpoint() -> None:
    made = table(entry("a", models="{chat: m, talk: m, code: n}"))
    assert named(made, "a", "chat") is named(made, "a", "talk") is not named(made, "a", "code")


def test_an_endpoint_whose_key_is_not_set_is_left_out() -> None:
    texts = entry("a", api_key="${KEY}"), entry("b")
    assert names(table(*texts)) == [["b"]]
    assert names(table(*texts, KEY="s3cret")) == [["a", "b"]]
    assert "chat" not in table(texts[0]).routes


def test_each_endpoint_has_its_own_policy_and_the_route_has_the_longest_deadline() -> None:
    rest = "models: {chat: {deadline: 20s, hedge: off, patience: 2s}}"
    made = table(entry("a", deadline="50s"), entry("b"), rest=rest)
    route = made.routes["chat"]
    assert [route.policies[e].deadline for e in route.endpoints] == [50.0, 20.0]
    assert {route.policies[e].hedge for e in route.endpoints} == {"off"}
    assert (route.deadline, route.patience) == (50.0, 2.0)


def test_the_models_of_one_entry_share_its_slots_and_other_entries_have_their_own() -> None:
    made = table(entry("a", models="{chat: m, code: n}", concurrency=1), entry("b"))
    named(made, "a", "chat").begin(T)
    assert named(made, "a", "code").availability.full
    assert not named(made, "b").availability.full


def test_weights_are_those_of_the_file() -> None:
    made = table(entry("a", weight=2.5), entry("b"))
    assert [e.weight for e in made.endpoints] == [2.5, 1.0]


def test_two_entries_of_the_same_server_are_two_endpoints() -> None:
    made = table(entry("a", host="x"), entry("b", host="x"))
    assert names(made) == [["a", "b"]]
    assert named(made, "a") is not named(made, "b")


def test_a_table_cannot_be_changed() -> None:
    made = table(entry("a"))
    with pytest.raises(TypeError):
        made.routes["chat"] = made.routes["chat"]  # type: ignore[index]
    with pytest.raises(TypeError):
        made.endpoints[named(made, "a")] = made.endpoints[named(made, "a")]  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        made.routes["chat"].deadline = 1.0  # type: ignore[misc]


# What was learned.


@pytest.mark.parametrize(
    "after",
    [
        entry("a"),
        entry("renamed", host="a"),
        entry("a", weight=9, tier=3, concurrency=2),
        entry("a", hedge="off", deadline="1s", abandon="1s"),
        entry("a", headers="{x-a: b}", params="{force: {seed: 1}}", pool="{max: 7}", probe="{kind: off}"),
        entry("a", models="{other: m}"),
        entry("a", models="{chat: m, code: n}"),
        entry("a", kind="vllm"),
        entry("a", base_url="http://a/v1/"),
    ],
)
def test_an_endpoint_is_kept_if_its_address_model_and_credential_are_unchanged(after: str) -> None:
    old = table(entry("a"))
    (before,) = old.endpoints
    new = table(after, old=old)
    assert before in new.endpoints


@pytest.mark.parametrize(
    "after",
    [
        entry("a", host="elsewhere"),
        entry("a", base_url="http://a/v2"),
        entry("a", base_url="https://a/v1"),
        entry("a", models="{chat: another}"),
        entry("a", api_key="another"),
    ],
)
def test_another_address_model_or_credential_makes_another_endpoint(after: str) -> None:
    old = table(entry("a"))
    new = table(after, old=old)
    assert not set(old.endpoints) & set(new.endpoints)


def test_a_new_weight_concurrency_or_tier_changes_nothing_that_was_learned() -> None:
    old = table(entry("a"), entry("b"))
    subject = named(old, "a")
    trip(subject)
    running = subject.begin(T)
    mean, retry_at = subject.forecast.latency("first_token").mean(T), subject.availability.breaker.retry_at
    new = table(entry("a-heavy", host="a", weight=4, concurrency=7), entry("b", tier=2), old=old)
    subject = named(new, "a-heavy")
    assert (subject.weight, subject.availability.slots.configured) == (4.0, 7)
    assert (subject.forecast.latency("first_token").mean(T), subject.availability.breaker.retry_at) == (mean, retry_at)
    assert (subject.availability.in_flight, subject.availability.slots.used) == (1, 1)
    running.end(Outcome(Verdict.SERVED), T)
    assert (subject.availability.in_flight, subject.availability.slots.used) == (0, 0)
    assert names(new) == [["a-heavy"], ["b"]]


def test_an_endpoint_that_was_removed_and_added_again_begins_anew() -> None:
    old = table(entry("a"), entry("b"))
    between = table(entry("b"), old=old)
    assert named(table(entry("a"), entry("b"), old=between), "a") is not named(old, "a")


def test_the_old_table_stays_as_it_was_for_the_calls_that_use_it() -> None:
    old = table(entry("a"), entry("b"))
    before = names(old)
    table(entry("b"), old=old)
    assert names(old) == before


def test_a_concurrency_lowered_below_the_running_attempts_lets_them_end() -> None:
    old = table(entry("a", concurrency=3))
    subject = named(old, "a")
    running = [subject.begin(T) for _ in range(3)]
    table(entry("a", concurrency=1), old=old)
    for attempt in running:
        assert subject.availability.full
        attempt.end(Outcome(Verdict.SERVED), T)
    assert not subject.availability.full


def test_an_entry_that_is_split_has_two_slot_counts_and_entries_that_are_joined_have_one() -> None:
    joined, split = (
        [entry("a", models="{chat: m, code: n}", concurrency=1)],
        [entry("a", concurrency=1), entry("b", host="a", models="{code: n}", concurrency=2)],
    )
    first = table(*joined)
    running = [named(first, "a", "chat").begin(T), named(first, "a", "code").begin(T)]
    second = table(*split, old=first)
    chat, code = named(second, "a", "chat"), named(second, "b", "code")
    assert (chat.availability.slots.configured, code.availability.slots.configured) == (1, 2)
    running.append(code.begin(T))
    third = table(*joined, old=second)
    assert named(third, "a", "chat").availability.slots is named(third, "a", "code").availability.slots
    for attempt in running:
        attempt.end(Outcome(Verdict.SERVED), T)
    for of in (first, second, third):
        assert [(e.availability.in_flight, e.availability.slots.used) for e in of.endpoints] == [(0, 0)] * 2


def test_all_models_share_the_budgets_and_a_new_table_keeps_them() -> None:
    old = table(entry("a", models="[chat, code]"))
    assert old.routes["chat"].hedges is old.routes["code"].hedges is not old.routes["code"].retries
    old.hedges.deposit(1.0, T)
    old.routes["code"].retries.withdraw(T)
    new = table(entry("b", models="[chat, talk]"), old=old)
    assert new.routes["chat"].hedges.level(T) == new.hedges.level(T) == 4.0
    assert new.routes["talk"].retries.level(T) == new.retries.level(T) == 2.0


def test_the_key_of_an_endpoint_does_not_reveal_its_api_key() -> None:
    made = table(entry("a", api_key="sk-very-secret"))
    assert "sk-very-secret" not in repr([e.key for e in made.endpoints])


def test_queued_calls_keep_their_entries_and_are_woken_by_a_new_table() -> None:
    old = table(entry("a", concurrency=1))
    endpoint, queue, woken = named(old, "a"), old.routes["chat"].queue, list[float]()
    running = endpoint.begin(T)
    queued = QueueEntry(queue, lambda: woken.append(T), T)
    queued.want([endpoint], T)
    new = table(entry("a", concurrency=2), rest="defaults: {queue: 7, queue_wait: 3s}", old=old)
    assert woken == [T]
    assert not endpoint.availability.full
    assert new.routes["chat"].queue is queue
    assert (queue.waiting, queue.most, queue.longest) == (1, 7, 3.0)
    queued.leave(T)
    running.end(Outcome(Verdict.SERVED), T)
    assert (queue.waiting, endpoint.availability.slots.used) == (0, 0)
