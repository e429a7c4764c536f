"""The command behind scripts/bench: reads its options, runs the scenarios, prints their tables."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from loadtest.cost import gateways, report, scenarios
from loadtest.cost.scenarios import PLAIN, STREAMS, Bench
from loadtest.processes import BenchError, Places, Processes, raise_file_limit

DESCRIPTION = """\
Measures gateways in front of three fake endpoints, nginx first as the yardstick, all in one run:

  calibration  what load and endpoints do alone, with no gateway between
  a            processor time per stream: 20 events, 1 ms between them, 256 clients
  b            processor time per plain answer: 32 clients
  c            added first-token time at half of the last gateway's load: of its core, and of its streams
  d            open streams held at once by one process: how many are lost, and KiB each

The gateway has a core to itself; load and endpoints share the others."""

GATEWAY = """\
what to measure beside nginx: "router" (the default), or NAME=COMMAND for another, started once and listening on {port};
{endpoints} in the command is the three endpoints' ports, {config} an endpoints.yaml with them; may be given again"""

PARTS = ("calibration", "a", "b", "c", "d")
# Streams that must fit beside a gateway's own files, at two sockets each.
SPARE_FILES = 500


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench", description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", type=parts, default=PARTS, help="parts to run, with commas: a,b (all)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each gateway in a, b and c (5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="measured time of a turn, after 1 s of warm-up (4)")
    parser.add_argument("--streams", type=int, default=9000, help="open streams in d (9000)")
    parser.add_argument("--gateway", action="append", metavar="NAME[=COMMAND]", help=GATEWAY)
    parser.add_argument(
        "--nice", type=int, default=0, help="niceness of all it starts; root may go below 0 on a busy machine"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--profile",
        type=float,
        metavar="SECONDS",
        help="only load the last --gateway for so long, with b's load if --only b, else a's;\n"
        "prints its pids, for py-spy or perf",
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.seconds <= 0 or options.streams < 1:
        parser.error("--rounds, --seconds and --streams must be more than nothing")
    return options


def parts(text: str) -> tuple[str, ...]:
    chosen = text.split(",")
    if unknown := set(chosen) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in chosen)


def prepare(options: argparse.Namespace, processes: Processes) -> Bench:
    needs_gateways = options.profile or set(options.only) - {"calibration"}
    yardstick = [] if options.profile else ["nginx"]
    wanted = [*yardstick, *(options.gateway or ["router"])] if needs_gateways else []
    if options.nice < 0 and os.geteuid() != 0:
        raise BenchError("--nice below 0 is for root")
    files = raise_file_limit()
    streams = min(options.streams, (files - SPARE_FILES) // 2)
    if streams < options.streams and "d" in options.only:
        print(f"d holds {streams} streams only: the limit of open files (ulimit -Hn) is {files}")
    members = [gateways.named(name) for name in dict.fromkeys(wanted)]
    if len({gateway.name for gateway in members}) < len(members):
        raise BenchError("two gateways bear the same name")
    return Bench(
        rounds=options.rounds,
        seconds=options.seconds,
        gateways=members,
        streams=streams,
        files=files,
        processes=processes,
        places=Places.of_this_machine(options.nice),
    )


def measure(bench: Bench, chosen: tuple[str, ...]) -> dict:
    """Runs the chosen parts in their order and prints each one's table as soon as it is known."""
    results: dict = {}
    if "calibration" in chosen:
        results["calibration"] = scenarios.calibrate(bench)
        report.print_calibration(results["calibration"])
    if "a" in chosen:
        results["a"] = scenarios.cost(bench, "streams", STREAMS)
        report.print_cost("a. streams of 20 events, 256 clients", results["a"])
    if "b" in chosen:
        results["b"] = scenarios.cost(bench, "plain", PLAIN)
        report.print_cost("b. plain answers, 32 clients", results["b"])
    if "c" in chosen:
        known = scenarios.saturated_rate(results.get("a"), bench.running[-1].name)
        results["c"] = scenarios.added_time(bench, known)
        for half in results["c"]:
            report.print_added_time(half)
    if "d" in chosen:
        results["d"] = scenarios.hold(bench)
        report.print_hold(results["d"])
    return results


def run(options: argparse.Namespace, processes: Processes) -> dict:
    bench = prepare(options, processes)
    if bench.places.shared:
        print("only one core: gateway, load and endpoints share it, and the figures say little")
    bench.start_endpoints()
    if options.profile or {"a", "b", "c"} & set(options.only):
        bench.start_gateways()
    if options.profile:
        return {"profile": scenarios.profile(bench, options.profile, PLAIN if options.only == ("b",) else STREAMS)}
    return {"settings": settings(bench, options), **measure(bench, options.only)}


def settings(bench: Bench, options: argparse.Namespace) -> dict:
    return {
        "rounds": bench.rounds,
        "seconds": bench.seconds,
        "nice": options.nice,
        "gateway_cores": len(bench.places.gateway.cores),
        "load_cores": len(bench.places.load.cores),
    }


def stop_on_signals() -> None:
    """Leave by an exception, so that every `with` on the way out stops what it started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))


def main() -> int:
    options = read_options()
    stop_on_signals()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, Processes(Path(folder)) as processes:
            results = run(options, processes)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except subprocess.SubprocessError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.profile:
        print(json.dumps(results["profile"]))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if count := scenarios.faults(results):
        print(f"bench: {count} answers were bad, broken or never asked for: mend that before reading figures")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
