"""The tables that a run prints; --json writes the same figures in full."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from loadtest.cost.fixed_rate import BUSIEST, RATES, shares
from loadtest.cost.interpreter import sentence
from loadtest.cost.scenarios import us_per_request

# A turn is marked if the gateway waited for its core for more than this share of the measured time.
DISTURBED = 0.1

# Above this load average before the run, other processes were busy on the machine.
QUIET = 1.0


def print_machine(build: dict[str, Any] | None, load: float) -> None:
    print(f"the router's interpreter: {sentence(build) if build else 'not installed here'}")
    busy = "; other processes were busy, so the figures are provisional" if load > QUIET else ""
    print(f"load average before the run: {load:.2f}{busy}")


def print_left_out(left_out: dict[str, str]) -> None:
    for name, reason in left_out.items():
        print(f"{name} is left out: {reason}")


def print_calibration(calibration: dict[str, Any]) -> None:
    print("\nload and endpoints alone (both share a core; the gateway has its own)")
    for what, answer in calibration.items():
        both = answer["client"]["us_per_request"] + us_per_request(answer)
        print(f"  {what:8} {answer['requests_per_second']:9,.0f} requests/s, {both:6.1f} µs each{faults(answer)}")


def print_cost(title: str, result: dict[str, Any]) -> None:
    rounds, ratios = result["rounds"], result["ratios"]
    names = list(rounds)
    print(f"\n{title}: µs of the gateway's processor time per request (and times that of {names[0]})")
    print("  " + row("round", names))
    for number in range(len(rounds[names[0]])):
        costs = [cost(rounds[name][number : number + 1], ratios.get(name, [])[number : number + 1]) for name in names]
        print("  " + row(str(number + 1), costs))
    print("  " + row("median", [cost(rounds[name], ratios.get(name, [])) for name in names]))
    for name in names:
        print(f"  {name}: {under_load(rounds[name])}{faults(*rounds[name])}")
    if any(disturbed(answer) for name in names for answer in rounds[name]):
        print(
            "  * other processes used the gateway's core: it waited, then took several events at once, which costs less"
        )


def cost(answers: list[dict[str, Any]], ratios: list[float]) -> str:
    """The median cost with its ratio in brackets; a single turn that was disturbed is marked."""
    mark = "*" if len(answers) == 1 and disturbed(answers[0]) else ""
    return f"{middle(answers, us_per_request):.1f}{mark}" + (f" ({median(ratios):.2f})" if ratios else "")


def disturbed(answer: dict[str, Any]) -> bool:
    return bool(answer["pids"]["waited"] > DISTURBED)


def under_load(answers: list[dict[str, Any]]) -> str:
    return (
        f"{middle(answers, lambda one: one['requests_per_second']):,.0f} requests/s, "
        f"{middle(answers, lambda one: one['events_per_second']):,.0f} events/s, "
        f"busy {middle(answers, busy):.0%}, "
        f"kept off its core {middle(answers, lambda one: one['pids']['waited']):.0%}, "
        f"{middle(answers, lambda one: one['reads_per_request']):.1f} reads per answer"
    )


def print_fixed_rate(result: dict[str, Any]) -> None:
    rate, limit, left_out = result["rate"], result["limit"], result["left_out"]
    if rate is None:
        print(f"\ne. streams at a fixed rate: not measured; {limit}")
    else:
        print_cost(f"e. streams of 20 events at {rate:,}/s for all gateways", result)
        for name, answers in result["rounds"].items():
            if middle(answers, busy) >= BUSIEST:
                print(f"  {name} was more than {BUSIEST:.0%} busy: at a lower rate it would cost more per stream")
        print(f"  no higher rate, because {limit}" if limit else f"  {rate:,}/s is the highest rate tried")
    if left_out:
        print(f"  left out, too busy at {RATES[0]:,} streams/s: {shares(left_out)}")


def busy(answer: dict[str, Any]) -> float:
    return float(answer["pids"]["busy"])


def print_added_time(title: str, result: dict[str, Any]) -> None:
    print(f"\n{title}: {result['rate']:,.0f} streams/s, random arrivals;")
    print("   ms more than directly at the endpoints")
    print("  " + row("", ["p50", "p99", "own p50", "busy"]))
    for name, added in result["added_ms"].items():
        own = middle(result["rounds"][name], lambda one: one["first_token_ms"]["p50"])
        share = middle(result["rounds"][name], busy)
        figures = [f"{median(added['p50']):.3f}", f"{median(added['p99']):.3f}", f"{own:.3f}", f"{share:.0%}"]
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
    return f"{name:14}" + "".join(f"{figure:>18}" for figure in figures)
