"""The tables that a run prints; --json writes the same figures in full."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from loadtest.cost.scenarios import us_per_request

# A turn is marked if the gateway waited for its core for more than this share of the measured time.
DISTURBED = 0.1


def print_calibration(calibration: dict[str, Any]) -> None:
    print("\nload and endpoints alone (both share a core; the gateway has its own)")
    for what, answer in calibration.items():
        both = answer["client"]["us_per_request"] + us_per_request(answer)
        print(f"  {what:8} {answer['requests_per_second']:9,.0f} requests/s, {both:6.1f} µs each{faults(answer)}")


def print_cost(title: str, result: dict[str, Any]) -> None:
    rounds, ratios = result["rounds"], result["ratios"]
    names = list(rounds)
    print(f"\n{title}: µs of the gateway's processor time per request")
    print("  " + row("round", [*names, *(f"{name}/{names[0]}" for name in ratios)]))
    for number in range(len(rounds[names[0]])):
        answers = [rounds[name][number] for name in names]
        costs = [f"{us_per_request(answer):.1f}{'*' if disturbed(answer) else ''}" for answer in answers]
        print("  " + row(str(number + 1), [*costs, *(f"{ratio[number]:.2f}" for ratio in ratios.values())]))
    costs = [f"{middle(rounds[name], us_per_request):.1f}" for name in names]
    print("  " + row("median", [*costs, *(f"{median(ratio):.2f}" for ratio in ratios.values())]))
    for name in names:
        print(f"  {name}: {under_load(rounds[name])}{faults(*rounds[name])}")
    if any(disturbed(answer) for name in names for answer in rounds[name]):
        print(
            "  * other processes used the gateway's core: it waited, then took several events at once, which costs less"
        )


def disturbed(answer: dict[str, Any]) -> bool:
    return bool(answer["pids"]["waited"] > DISTURBED)


def under_load(answers: list[dict[str, Any]]) -> str:
    return (
        f"{middle(answers, lambda one: one['requests_per_second']):,.0f} requests/s, "
        f"{middle(answers, lambda one: one['events_per_second']):,.0f} events/s, "
        f"busy {middle(answers, lambda one: one['pids']['busy']):.0%}, "
        f"kept off its core {middle(answers, lambda one: one['pids']['waited']):.0%}, "
        f"{middle(answers, lambda one: one['reads_per_request']):.1f} reads per answer"
    )


def print_added_time(result: dict[str, Any]) -> None:
    print(f"\nc. first token, with half of {result['half']} in use: {result['rate']:,.0f} streams/s, random arrivals;")
    print("   ms more than directly at the endpoints")
    print("  " + row("", ["p50", "p99", "own p50", "busy"]))
    for name, added in result["added_ms"].items():
        own = middle(result["rounds"][name], lambda one: one["first_token_ms"]["p50"])
        busy = middle(result["rounds"][name], lambda one: one["pids"]["busy"])
        figures = [f"{median(added['p50']):.3f}", f"{median(added['p99']):.3f}", f"{own:.3f}", f"{busy:.0%}"]
        print("  " + row(name, figures))
    for name, answers in result["rounds"].items():
        unsent = sum(one["unsent"] for one in answers)
        if unsent or faults(*answers):
            print(f"  {name}: {unsent} requests never sent{faults(*answers)}")


def print_hold(result: dict[str, Any]) -> None:
    print("\nopen streams held at once by one process")
    print("  " + row("", ["streams", "open at once", "lost", "KiB each", "RSS MiB"]))
    for name, answer in result.items():
        held = answer["hold"]
        figures = [f"{held['streams']:,}", f"{held['open_at_once']:,}", f"{held['lost']:,}"]
        print("  " + row(name, [*figures, f"{held['kib_per_stream']:.1f}", f"{held['rss_held_kib'] / 1024:.0f}"]))


def faults(*answers: dict[str, Any]) -> str:
    """A remark on bad and broken answers, which make figures unreliable; empty if there were none."""
    bad, broken = (sum(one[kind] for one in answers) for kind in ("bad", "broken"))
    status = next((one["last_bad_status"] for one in answers if one["bad"]), None)
    text = f"; {bad} BAD (status {status})" if bad else ""
    return text + (f"; {broken} BROKEN" if broken else "")


def middle(answers: list[dict[str, Any]], figure: Callable[[dict[str, Any]], float]) -> float:
    return median(map(figure, answers))


def row(name: str, figures: list[str]) -> str:
    return f"{name:10}" + "".join(f"{figure:>16}" for figure in figures)
