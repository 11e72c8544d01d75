"""bench/RESULTS.md: what was measured last, a section for each benchmark; other sections are kept."""

import os
import platform
import re
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

from bench.harness import Row
from smallkube import __version__
from smallkube.core import process

PROGRAMS = {"age": "--version", "nix": "--version", "etcd": "--version", "ssh": "-V"}


def write(file: Path, name: str, rows: Sequence[Row]) -> None:
    """Put the section of the benchmark ``name`` into ``file``, in the place of the one that is there."""
    text = file.read_text() if file.exists() else "# Results of `make bench`\n"
    section = "\n".join((f"## {name}", "", *_section(rows)))
    parts = re.split(r"(?m)^(?=## )", text)
    kept = [part for part in parts if not part.startswith(f"## {name}\n")]
    file.write_text("\n\n".join(part.strip() for part in (*kept, section)) + "\n")


def _section(rows: Sequence[Row]) -> Iterator[str]:
    yield f"{date.today()}; medians (least to most), in seconds if nothing else is said; ratio: the median of those of"
    yield "neighbouring runs."
    yield machine()
    yield ""
    yield "| work | median | against | median | ratio | runs | goal |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        sides = [f"{low:.3f} to {high:.3f}" for low, high in row.spreads]
        ours, theirs = f"{row.ours:.3f} ({sides[0]})", f"{row.theirs:.3f} ({sides[1]})" if row.theirs else ""
        against = row.against.replace("|", "\\|")
        yield f"| {row.work} | {ours} | {against} | {theirs} | {row.ratio} | {row.runs} | {row.goal} |"


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
