"""bench/RESULTS.md and docs/scale.md: what was measured last, a section for each benchmark; others are kept."""

import math
import os
import platform
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path

from bench.harness import Row
from smallkube import __version__
from smallkube.core import process

PROGRAMS = {"age": "--version", "nix": "--version", "etcd": "--version", "ssh": "-V"}


def write(file: Path, name: str, rows: Sequence[Row]) -> None:
    """Put the section of the benchmark ``name`` into ``file``, in the place of the one that is there."""
    put(file, name, _section(rows))


def write_growth(file: Path, name: str, rows: Sequence[Row]) -> None:
    """The same of tasks that were measured with several numbers of machines: how they grow."""
    put(file, name, _growth(rows))


def put(file: Path, name: str, lines: Iterable[str]) -> None:
    """The section ``name`` with these lines into ``file``; all other text stays."""
    text = file.read_text() if file.exists() else "# Results of `make bench`\n"
    section = "\n".join((f"## {name}", "", *lines))
    parts = re.split(r"(?m)^(?=## )", text)
    kept = [part for part in parts if not part.startswith(f"## {name}\n")]
    file.write_text("\n\n".join(part.strip() for part in (*kept, section)) + "\n")


def _growth(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each task, a column for each number of machines, exponents by least squares over logarithms."""
    sizes = sorted({row.hosts for row in rows})
    yield f"{date.today()}; seconds (least to most, where it ran more than once), processor seconds, MiB of memory."
    yield "Growth: the exponents of these three over all sizes; in parentheses, from the last size but one to the last."
    yield machine()
    yield ""
    yield "| task | runs | " + " | ".join(f"{size} machines" for size in sizes) + " | growth |"
    yield "|---|---|" + "---|" * len(sizes) + "---|"
    for work in dict.fromkeys(row.work for row in rows):
        found = {row.hosts: row for row in rows if row.work == work}
        cells = [_cell(found[size]) if size in found else "" for size in sizes]
        runs = ", ".join(dict.fromkeys(str(row.runs) for row in found.values()))
        yield f"| `{work}` | {runs} | " + " | ".join(cells) + f" | {_exponents([*found.values()])} |"


def _cell(row: Row) -> str:
    low, high = row.spreads[0]
    spread = f" ({low:.1f} to {high:.1f})" if row.runs > 1 else ""
    return f"{row.ours:.1f}{spread}, {row.processors[0]:.2f}, {row.mebibytes[0]:.0f}"


def _exponents(rows: Sequence[Row]) -> str:
    taken = [[row.ours for row in rows], [row.processors[0] for row in rows], [row.mebibytes[0] for row in rows]]
    sizes = [row.hosts for row in rows]
    if len(sizes) < 2:
        return ""
    return ", ".join(f"{exponent(sizes, each):.2f} ({exponent(sizes[-2:], each[-2:]):.2f})" for each in taken)


def exponent(sizes: Sequence[int], taken: Sequence[float]) -> float:
    """The K of ``taken`` ~ ``sizes`` to the power of K that fits best; 1: linear."""
    return statistics.linear_regression([*map(math.log, sizes)], [*map(math.log, taken)]).slope


def _section(rows: Sequence[Row]) -> Iterator[str]:
    yield f"{date.today()}; medians (least to most), in seconds if nothing else is said; ratio: the median of those of"
    yield "neighbouring runs."
    yield machine()
    used = any(row.hosts for row in rows)
    if used:
        yield "Used: processor seconds of all its processes, and MiB of the largest one, at the machine that asks."
    extra = " used | used there |" if used else ""
    yield ""
    yield f"| work | median | against | median | ratio | runs | goal |{extra}"
    yield "|---|---|---|---|---|---|---|" + "---|---|" * used
    for row in rows:
        sides = [f"{low:.3f} to {high:.3f}" for low, high in row.spreads]
        ours, theirs = f"{row.ours:.3f} ({sides[0]})", f"{row.theirs:.3f} ({sides[1]})" if row.theirs else ""
        against = row.against.replace("|", "\\|")
        taken = zip(row.processors, row.mebibytes, strict=True)
        cells = "".join(f" {seconds:.2f} s, {memory:.0f} MiB |" for seconds, memory in taken)
        yield f"| {row.where} | {ours} | {against} | {theirs} | {row.ratio} | {row.runs} | {row.goal} |{cells}"


def machine() -> str:
    """The processor, how busy it is with other work, the memory, and versions of what is measured."""
    cpu = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [platform.machine()]
    memory = re.findall(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())
    versions = [f"smallkube {__version__}", f"Python {platform.python_version()}", f"Linux {platform.release()}"]
    for name, flag in PROGRAMS.items():
        if found := process.find(name):
            done = process.run([found, flag])
            versions.append(f"{name} {(re.findall(r'[0-9]+[.][0-9.p]+', done.stdout + done.stderr) or ['?'])[0]}")
    load = os.getloadavg()[1]
    where = f"{os.cpu_count()} cores ({cpu[0]}), {int(memory[0]) >> 20} GiB, load {load:.1f} of other work included"
    return f"{where}; {', '.join(versions)}."
