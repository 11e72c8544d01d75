"""Proves the building of Go programs with the real Go: built once, an interrupted build resumed, its progress told."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import gobuild, kubernetes, toolchain
from lab.places import Places
from smallkube.cli.bar import Bar
from smallkube.core.errors import SmallkubeError

MAIN = 'package main\n\nimport "example.test/m/shared"\n\nfunc main() { println(shared.Word, version) }\n'
SYMBOL = '\nvar version = "none"\n'


class Seen(Bar):
    """A bar that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[tuple[str, int | None]] = []
        self.points: list[tuple[int, str]] = []

    def stage(self, title: str, total: int | None = None) -> None:
        self.stages.append((title, total))

    def at(self, done: int, doing: str = "") -> None:
        self.points.append((done, doing))


@pytest.fixture
def go(tmp_path: Path, needs: Callable[[str, object, str], None], monkeypatch: pytest.MonkeyPatch) -> gobuild.Go:
    cache = Places.find(os.environ).cache
    cache.mkdir(parents=True, exist_ok=True)
    try:
        program = toolchain.ensure(cache, (1, 21), Bar())
    except SmallkubeError as error:
        needs("integration", False, f"Go: {error}")
        raise
    monkeypatch.setenv("GOPROXY", "off")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "log").touch()
    return gobuild.Go(program, tmp_path / "scratch", tmp_path / "log")


@pytest.fixture
def build(tmp_path: Path) -> gobuild.Build:
    """A module of two programs that share a package."""
    module = tmp_path / "m"
    for name in ("shared", "one", "two/v2"):
        (module / name).mkdir(parents=True)
    (module / "go.mod").write_text("module example.test/m\n\ngo 1.21\n")
    (module / "shared/shared.go").write_text('package shared\n\nconst Word = "built"\n' + f"// {tmp_path}\n")
    (module / "one/main.go").write_text(MAIN + SYMBOL)
    (module / "two/v2/main.go").write_text(MAIN + SYMBOL)
    programs = {"one": "example.test/m/one", "two": "example.test/m/two/v2"}
    return gobuild.Build("m v1", module, programs, tmp_path / "target", ["main.version=v1"])


def test_the_programs_run_and_are_not_built_again(go: gobuild.Go, build: gobuild.Build) -> None:
    bar = Seen()
    gobuild.build([build], go, bar)
    for name, package in build.programs.items():
        program = build.executable(package)
        assert program.name == name
        assert subprocess.run([program], capture_output=True, text=True, check=True).stderr == "built v1\n"
    title, total = bar.stages[-1]
    assert title == "compiling" and total
    assert [done for done, _ in bar.points] == sorted(done for done, _ in bar.points)
    assert build.wanted == {}
    assert gobuild.plan(build, go) == gobuild.Plan({}, 0)


def test_what_is_compiled_is_not_compiled_again(go: gobuild.Go, build: gobuild.Build) -> None:
    assert "example.test/m/shared" in gobuild.plan(build, go).compiling
    gobuild.build([build], go, Seen())
    build.executable("example.test/m/one").unlink()
    again = gobuild.plan(build, go)
    assert build.wanted == {"one": "example.test/m/one"}
    assert "example.test/m/shared" not in again.compiling and again.linking > 0
    gobuild.build([build], go, Seen())
    assert build.wanted == {}


def test_a_compiler_error_is_named_with_the_log(go: gobuild.Go, build: gobuild.Build) -> None:
    (build.folder / "one/main.go").write_text("package main\n\nfunc main() { nothing() }\n")
    with pytest.raises(SmallkubeError, match="m v1 can't be built") as caught:
        gobuild.build([build], go, Seen())
    assert str(go.log) in str(caught.value.hint)


def test_a_killed_build_takes_its_compiler_with_it(go: gobuild.Go, build: gobuild.Build, tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    slow = tmp_path / "slow-go"
    slow.write_text(f"#!/bin/sh\n: >{tmp_path}/begun/$$\nexec sleep 600\n")
    slow.chmod(0o755)
    script = (
        "import sys; from pathlib import Path; from lab import gobuild;"
        "go = gobuild.Go(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]));"
        "go.follow(gobuild.Build('m', Path(sys.argv[2]), {}, Path(sys.argv[2])), ['build'], lambda _: None)"
    )
    argv = [sys.executable, "-c", script, str(slow), str(tmp_path), str(go.log)]
    process = subprocess.Popen(argv, cwd=Path(kubernetes.__file__).parent.parent)
    try:
        while not (begun := list((tmp_path / "begun").iterdir())):
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    compiler = Path("/proc") / begun[0].name / "stat"
    while compiler.exists() and compiler.read_text().rpartition(")")[2].split()[0] != "Z":
        pass
