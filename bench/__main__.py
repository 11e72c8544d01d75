"""Prints one table: medians in seconds, ratio to what it is compared with, and the goal."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import connections, etcd, footprint, machines, nix, others, ready, results, secrets, startup
from bench.harness import FULL, QUICK, Benchmark, measure, scratch
from smallkube.core import ui

BENCHMARKS: dict[str, Benchmark] = {
    "startup": startup.rows,
    "connections": connections.rows,
    "secrets": secrets.rows,
    "nix": nix.rows,
    "etcd": etcd.rows,
    "machines": machines.rows,
    "others": others.rows,
}
ON_REQUEST: dict[str, Benchmark] = {"footprint": footprint.rows, "ready": ready.rows}
"""Those that take long, which run when they are named."""
SCALE = ("machines",)
"""Those of which it is told how they grow."""
COLUMNS = ("WORK", "MEDIAN", "AGAINST", "MEDIAN", "RATIO", "GOAL")
NO_MEASUREMENT = "quick form: each benchmark once, on small sizes; shows that they work and is not a measurement"


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 when every benchmark worked that can run on this machine, 1 when one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure tasks side by side with what they are compared with, and print a table of medians, in"
        " seconds if nothing else is said."
        " A benchmark whose programs are not installed is left out, with a line that names them.",
        epilog="Exit status: 0 all worked, 1 a benchmark failed, 2 wrong usage.",
        allow_abbrev=False,
    )
    help_ = "run each benchmark once, on small sizes, to check that it works (about half a minute)"
    parser.add_argument("--quick", action="store_true", help=help_)
    parser.add_argument("--output", type=Path, help="a Markdown file whose sections of these benchmarks are renewed")
    parser.add_argument("--scale", type=Path, help=f"the same, for {', '.join(SCALE)}: how tasks grow")
    known = BENCHMARKS | ON_REQUEST
    help_ = f"only these: {', '.join(BENCHMARKS)}; and what runs when it is named: {', '.join(ON_REQUEST)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=help_)
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - set(known):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    quick, plan = given.quick, QUICK if given.quick else FULL
    with scratch():
        found, failed = measure({name: known[name] for name in given.names or BENCHMARKS}, plan)
    for name, measured in found.items():
        if name in SCALE and given.scale and not quick:
            results.write_growth(given.scale, name.capitalize(), measured)
        elif name not in SCALE and given.output and not quick:
            results.write(given.output, name, measured)
    rows = [row for measured in found.values() for row in measured]
    shown = COLUMNS[:-1] if quick else COLUMNS
    cells = [
        (row.where, f"{row.ours:.3f}", row.against, f"{row.theirs:.3f}" if row.theirs else "", row.ratio, row.goal)
        for row in rows
    ]
    ui.table(shown, [each[: len(shown)] for each in cells], title=NO_MEASUREMENT if quick else None)
    if failed:
        ui.message(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    # So that what was started is stopped, and the temporary folder removed.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        ui.message("interrupted")
        sys.exit(128 + signal.SIGINT)
