"""The pictures of a run: the distribution of first-token times, each call over time, and the extra attempts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from loadtest.latency.marks import hedges
from loadtest.latency.play import DEADLINE
from loadtest.latency.results import Outcome, Run
from loadtest.latency.servers import Server

# The palette of Okabe and Ito, which colour-blind readers can distinguish.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
GREYS = {
    "random": ("#bbbbbb", ":"),
    "best fixed": ("#999999", "--"),
    "informed": ("#444444", "-."),
    "clairvoyant": ("#000000", ":"),
}
STEP = 0.5  # seconds between two samples of an endpoint's state
SHADE: dict[str, Any] = {"color": "#888888", "alpha": 0.1, "linewidth": 0}
STRIP = 0.018  # share of the picture's height for the strip of one impaired endpoint
TROUBLE = 1.5  # an endpoint counts as slow above this multiple of its best mean; a bad spell of `roadmap` is 1.9
WINDOW = 10.0  # seconds over which extra attempts are counted
MOST_NAMED = 20  # endpoints whose names fit beside the picture
USUAL_TOKENS = 200  # tokens of the prompt for which an endpoint's mean is computed


def colours(names: Sequence[str]) -> dict[str, str]:
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def cdf(file: Path, title: str, series: Mapping[str, Sequence[float]]) -> None:
    """Draw the share of calls with their first token within a time; references are grey."""
    figure, axes = canvas(title)
    coloured = ((colour, style) for style in ("-", "--", "-.") for colour in COLOURS)
    for name, times in series.items():
        colour, style = GREYS.get(name) or next(coloured, ("black", "-"))
        ordered = np.sort(np.minimum(times, DEADLINE))
        axes.plot(
            ordered,
            (np.arange(len(ordered)) + 1) / len(ordered),
            label=name,
            color=colour,
            linestyle=style,
            linewidth=1.2 if name in GREYS else 2,
        )
    axes.set(xscale="log", xlabel="seconds to the first token", ylabel="share of calls", ylim=(0, 1.02))
    plainly(axes.xaxis)
    axes.legend(loc="lower right")
    save(figure, file)


def timeline(file: Path, title: str, calls: Sequence[Outcome], servers: Mapping[str, Server], warmup: int) -> None:
    """Draw each call at its time, coloured by the endpoint that answered it; of a large fleet no endpoint is named.

    Times at which an endpoint is impaired are shaded; a strip above the picture has the colour of that endpoint.
    """
    figure, axes = canvas(title)
    palette = colours(list(servers))
    end = calls[-1].at
    for number, name in enumerate(servers):
        answered = [call for call in calls if call.endpoint == name and call.first_token is not None]
        axes.scatter(
            [call.at for call in answered],
            [call.first_token or 0 for call in answered],
            s=4, color=palette[name], label=name if len(servers) <= MOST_NAMED else None, zorder=3 + number / 1e4,
        )  # fmt: skip
    lost = [call.at for call in calls if call.first_token is None]
    if lost:
        axes.scatter(lost, [DEADLINE] * len(lost), marker="x", color="red", label="no answer", zorder=4)
    if warmup < len(calls):
        axes.axvline(calls[warmup].at, color="#888888", linewidth=1, linestyle=":", label="counted from here")
    axes.set(yscale="log", xlabel="seconds of the scenario", ylabel="seconds to the first token", xlim=(0, end))
    plainly(axes.yaxis)
    shown, _ = axes.get_legend_handles_labels()
    if strips(axes, palette, {name: list(troubles(server, end)) for name, server in servers.items()}):
        shown.append(Patch(**SHADE, label="impaired: see the\nstrips above"))
    figure.legend(handles=shown, loc="outside right upper", markerscale=3)
    save(figure, file)


def strips(axes: Any, palette: Mapping[str, str], ill: Mapping[str, Sequence[tuple[float, float]]]) -> int:
    """Shade the times at which endpoints are impaired, and draw a strip per endpoint above; returns their number.

    The shade is darker where more endpoints are impaired.
    """
    names = [name for name, spans in ill.items() if spans]
    for number, name in enumerate(reversed(names)):
        for start, until in ill[name]:
            axes.axvspan(start, until, **SHADE)
        axes.broken_barh(
            [(start, until - start) for start, until in ill[name]],
            (1.01 + number * STRIP, 0.8 * STRIP),
            transform=axes.get_xaxis_transform(), color=palette[name], linewidth=0, clip_on=False,
        )  # fmt: skip
    axes.set_title(axes.get_title(), pad=6 + 6 * len(names))  # points: above the strips
    return len(names)


def extra(file: Path, title: str, run: Run, budget: float) -> None:
    """Draw extra attempts and retries per hundred calls, over the time at which the calls arrived."""
    figure, axes = canvas(title)
    asked = run.by_call()
    arrived = np.array([call.at for call in run.calls])
    extras = np.array([hedges(asked[call.k]) for call in run.calls])
    retries = np.array([max(0, len(asked[call.k]) - 1) for call in run.calls]) - extras
    edges = np.arange(0, arrived[-1] + WINDOW, WINDOW)
    calls = np.maximum(1, np.histogram(arrived, edges)[0])
    below = np.zeros(len(calls))
    for label, counts, colour in (("extra", extras, COLOURS[0]), ("after a failure", retries, COLOURS[1])):
        share = 100 * np.histogram(arrived, edges, weights=counts)[0] / calls
        axes.bar(edges[:-1], share, WINDOW * 0.9, below, align="edge", color=colour, label=label)
        below += share
    axes.axhline(100 * budget, color="#444444", linestyle="--", linewidth=1, label="budget for extra attempts")
    axes.set(xlabel="seconds of the scenario", ylabel="further attempts per 100 calls", xlim=(0, arrived[-1]))
    axes.set_ylim(0, 1.05 * max(*below, 110 * budget))  # the budget's line is always visible
    figure.legend(loc="outside right upper")
    save(figure, file)


def troubles(server: Server, end: float) -> Iterator[tuple[float, float]]:
    """The spans in which a server is absent, silent, failing, or slower than `TROUBLE` times its best mean."""
    endpoint, times = server.endpoint, np.arange(0, end + STEP, STEP)
    means = [server.law.mean(at, USUAL_TOKENS) for at in times]
    slow = TROUBLE * min(means)
    began: float | None = None
    for at, mean in zip(times, means, strict=True):
        ill = mean > slow or endpoint.is_absent(at) or endpoint.is_silent(at) or endpoint.failing(at) is not None
        if ill and began is None:
            began = at
        elif not ill and began is not None:
            yield began, at
            began = None
    if began is not None:
        yield began, end


def plainly(axis: Axis) -> None:
    """Label a logarithmic axis with 0.2, 0.5, 1, 2, 5 instead of powers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def canvas(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.grid(True, which="major", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def save(figure: Figure, file: Path) -> None:
    figure.savefig(file, dpi=110, metadata={"Software": None})
