"""Building programs of Go modules; what is downloaded, compiled and linked is counted: the remaining time is known.

All programs of a module are built by one command: what they share is compiled once, and they are linked side by side.
What was downloaded, compiled or linked before is not done again, also when the build was interrupted.
"""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lab.command import run, with_parent
from smallkube.cli.bar import Bar
from smallkube.core.errors import SmallkubeError
from smallkube.core.process import free_memory

WITHOUT_DEBUG = ("-trimpath", "-gcflags=all=-dwarf=false")
STRIPPED = "-s -w"
TAGS = ("netgo", "osusergo")
"""With cgo, else, package net is another one, and what imports it would be compiled twice."""
LINKING = 0.03
"""Time for linking a byte of source against compiling one (measured with the programs of Kubernetes 1.34)."""
ROOMY = 2 << 30
"""Bytes up to which a compiler or linker collects no garbage, where there is memory enough: up to a seventh faster."""
POLL = 0.5
"""Seconds after which a running command's progress is looked at again."""


@dataclass(frozen=True)
class Build:
    """Programs of the Go module in ``folder`` (go.mod, go.sum), which are put into ``target``.

    ``programs``: name to main package. ``symbols``: -X settings of the linker. ``cgo``: C sources are compiled too,
    and the programs are linked statically.
    """

    title: str
    folder: Path
    programs: Mapping[str, str]
    target: Path
    symbols: Sequence[str] = ()
    tags: str = ""
    cgo: bool = False

    @property
    def flags(self) -> list[str]:
        linker = [STRIPPED, *(f"-X {symbol}" for symbol in self.symbols)]
        if self.cgo:
            linker.append("-extldflags '-static -lm'")  # libm is for SQLite, which does not name it
        tags = " ".join((*TAGS, self.tags)).strip()
        return ["-mod=readonly", *WITHOUT_DEBUG, f"-tags={tags}", f"-ldflags={' '.join(linker)}"]

    @property
    def wanted(self) -> dict[str, str]:
        """The programs that are not there yet; Go puts each in its place when it is complete."""
        return {name: package for name, package in self.programs.items() if not self.executable(package).exists()}

    def executable(self, package: str) -> Path:
        """What ``go build`` calls the program of a main package: the last element of its path that is no version."""
        return self.target / re.sub(r"/v\d+$", "", package).rpartition("/")[2]


@dataclass(frozen=True)
class Plan:
    """What a build has to do: weight (bytes of source) of each package that must be compiled, and of all linking.

    ``sources``: what is compiled of each package; two builds with the same compile it once.
    """

    compiling: Mapping[str, int]
    linking: int
    sources: Mapping[str, object] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.compiling.values()) + self.linking


@dataclass(frozen=True)
class Go:
    """The go program; ``scratch`` takes its temporary files, ``log`` what it and its compilers say."""

    program: Path
    scratch: Path
    log: Path

    def environment(self, build: Build) -> dict[str, str]:
        """The operator's own, less what would change what is built."""
        own = {"GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off", "CGO_ENABLED": str(int(build.cgo))}
        return {**os.environ, **own, **_collection(), "GOTMPDIR": str(self.scratch)}

    def ask(self, build: Build, *words: str) -> str:
        """What a go command prints that changes nothing."""
        return run([self.program, *words], folder=build.folder, environment=self.environment(build))

    def follow(self, build: Build, words: Sequence[str], look: Callable[[list[str]], None]) -> None:
        """Run a go command; ``look`` is called now and then with the lines that it has printed since."""
        with self.log.open("a") as sink, self.log.open() as said:
            sink.write(f"$ {' '.join(words)}\n")
            sink.flush()
            said.seek(0, os.SEEK_END)
            process = subprocess.Popen(
                with_parent([self.program, *words]),
                cwd=build.folder,
                env=self.environment(build),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
            try:
                while _runs(process):
                    look(said.read().splitlines())
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
        if process.returncode:
            last = self.log.read_text().strip().splitlines()[-1]
            raise SmallkubeError(f"{build.title} can't be built: {last}", hint=f"the whole output is in {self.log}")


def _collection() -> dict[str, str]:
    """Go's settings of the garbage collector, for as many compilers as there are cores (go.dev/doc/gc-guide)."""
    roomy = free_memory() >= 2 * ROOMY * (os.cpu_count() or 1)
    return {"GOGC": "off", "GOMEMLIMIT": str(ROOMY)} if roomy else {}


def _runs(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(POLL)
    except subprocess.TimeoutExpired:
        return True
    return False


def build(builds: Sequence[Build], go: Go, bar: Bar) -> None:
    """Download what is missing, then compile and link every program that is not there yet.

    Raises SmallkubeError with the last line of the log when a command fails.
    """
    _download(builds, go, bar)
    bar.stage("planning")
    plans = _shared_once([plan(one, go) for one in builds])
    bar.stage("compiling", sum(each.total for each in plans))
    done = 0
    for one, planned in zip(builds, plans, strict=True):
        _Compilation(one, planned, bar, done).run(go)
        done += planned.total


def _download(builds: Sequence[Build], go: Go, bar: Bar) -> None:
    missing = {path for one in builds for path in _modules(one, go) if not path.is_dir()}
    if not missing:
        return
    bar.stage("downloading", len(missing))
    for one in builds:

        def look(_lines: list[str], title: str = one.title) -> None:
            bar.at(sum(path.is_dir() for path in missing), f"the Go modules of {title}")

        go.follow(one, ["mod", "download"], look)


def _modules(one: Build, go: Go) -> list[Path]:
    """Where the cache has each module that the build requires once it is there (go.dev/ref/mod#module-cache)."""
    cache = Path(go.ask(one, "env", "GOMODCACHE").strip())
    return [cache / folder for folder in module_folders(json.loads(go.ask(one, "mod", "edit", "-json")))]


def module_folders(mod: Mapping[str, Any]) -> list[str]:
    """The folder in the module cache of each requirement of a go.mod, given as by ``go mod edit -json``."""
    replaced = {entry["Old"]["Path"]: entry["New"] for entry in mod.get("Replace") or ()}
    wanted = (replaced.get(entry["Path"], entry) for entry in mod.get("Require") or ())
    return [re.sub("[A-Z]", lambda letter: f"!{letter[0].lower()}", f"{m['Path']}@{m['Version']}") for m in wanted]


def plan(one: Build, go: Go) -> Plan:
    """What must be compiled and linked, of what size."""
    if not one.wanted:
        return Plan({}, 0)
    # Without EmbedFiles, a package that embeds files and all that import it are reported stale.
    fields = "-json=ImportPath,Dir,GoFiles,CgoFiles,CFiles,EmbedFiles,Stale,Deps,Name"
    listed = go.ask(one, "list", "-deps", fields, *one.flags, *one.wanted.values())
    packages = list(_each_json(listed))
    sizes = {package["ImportPath"]: _size(package) for package in packages}
    mains = [package for package in packages if package["Name"] == "main"]
    linked = sum(sizes.get(name, 0) for package in mains for name in package.get("Deps") or ())
    stale = [package for package in packages if package.get("Stale")]
    return Plan(
        {package["ImportPath"]: sizes[package["ImportPath"]] for package in stale},
        int(LINKING * linked),
        {package["ImportPath"]: (package["Dir"], bool(package.get("CgoFiles"))) for package in stale},
    )


def _shared_once(plans: Sequence[Plan]) -> list[Plan]:
    """The plans less what an earlier one compiles."""
    seen: set[object] = set()
    left = []
    for each in plans:
        own = {name: size for name, size in each.compiling.items() if each.sources[name] not in seen}
        seen.update(each.sources.values())
        left.append(replace(each, compiling=own))
    return left


def _each_json(text: str) -> Iterator[dict[str, Any]]:
    decoder, end = json.JSONDecoder(), 0
    while end < len(text):
        value, end = decoder.raw_decode(text, end)
        yield value
        end += len("\n")


def _size(package: Mapping[str, Any]) -> int:
    names = (name for kind in ("GoFiles", "CgoFiles", "CFiles") for name in package.get(kind) or ())
    return sum(path.stat().st_size for name in names if (path := Path(package["Dir"], name)).is_file())


@dataclass
class _Compilation:
    """One build under way, which began when ``before`` of the bar's total was done."""

    build: Build
    plan: Plan
    bar: Bar
    before: int
    begun: set[str] = field(default_factory=set)
    last: str = ""

    def run(self, go: Go) -> None:
        if packages := self.build.wanted.values():
            target = f"{self.build.target}/"
            go.follow(self.build, ["build", "-v", "-o", target, *self.build.flags, *packages], self.look)

    def look(self, lines: list[str]) -> None:
        """With -v, Go prints each package when it begins to compile it."""
        for line in lines:
            if line in self.plan.compiling:
                self.begun.add(line)
                self.last = line
        compiled = sum(self.plan.compiling[name] for name in self.begun)
        missing = self.build.wanted
        linked = self.plan.linking * (1 - len(missing) / len(self.build.programs))
        linking = len(self.begun) == len(self.plan.compiling)
        doing = f"linking {', '.join(missing)}" if linking else f"{self.build.title}: {self.last}"
        self.bar.at(self.before + compiled + int(linked), doing)
