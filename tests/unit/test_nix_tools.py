"""Proves how checks start programs: no shell, no inherited secrets, always an end; and how Nix' errors are told."""

import os
import sys
from pathlib import Path

import pytest

from smallkube.core import runner
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.nix.check import materialise
from smallkube.nix.evaluate import nixpkgs_lib, reason


def python(*code: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(code)]


def test_arguments_input_and_output_arrive_as_they_are() -> None:
    code = python("import sys", "print(sys.argv[1:], sys.stdin.read())", "sys.stderr.write('e')", "sys.exit(3)")
    result = runner.run([*code, "$HOME; `x`", "ä"], stdin="in\n")
    assert (result.status, result.stdout, result.stderr) == (3, "['$HOME; `x`', 'ä'] in\n\n", "e")
    assert not result.ok


def test_only_a_plain_environment_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    result = runner.run(python("import os", "print('SECRET' in os.environ, os.environ['A'])"), environment={"A": "b"})
    assert result.stdout == "False b\n"


def test_a_program_that_does_not_end_is_stopped() -> None:
    result = runner.run(python("import time", "print('x', flush=True)", "time.sleep(600)"), timeout=2)
    assert (result.stopped, result.ok, result.stdout) == (True, False, "x\n")


def test_a_program_that_is_not_there() -> None:
    assert runner.find("no-such-program") is None
    with pytest.raises(SmallkubeError, match="no-such-program: can't be started"):
        runner.run(["no-such-program"])
    with pytest.raises(SmallkubeError, match="no-such-program: can't be started"):
        runner.run_until(["no-such-program"], "x", timeout=1)


def test_a_daemon_is_ended_once_it_has_said_what_matters() -> None:
    code = ("import sys, time", "print('one', file=sys.stderr)", "print('ready', file=sys.stderr, flush=True)")
    result = runner.run_until(python(*code, "time.sleep(600)"), "ready", timeout=60)
    assert (result.stderr, result.stopped) == ("one\nready\n", False)


def test_a_silent_daemon_is_killed() -> None:
    result = runner.run_until(python("import time", "time.sleep(600)"), "ready", timeout=0.5)
    assert (result.stderr, result.stopped) == ("", True)


def test_nix_errors_on_one_line() -> None:
    text = (
        "trace: smallkube-text {}\nwarning: something\n\x1b[31;1merror:\x1b[0m undefined variable 'x'\n\n"
        "       at /a/b.nix:3:5:\n\n            2|   a = 1;\n            3|   b = x;\n             |       ^\n"
        "(use '--show-trace' to show detailed location information)\n"
    )
    assert reason(text) == "undefined variable 'x' at /a/b.nix:3:5:"
    assert reason("") == "Nix failed without saying why"


def test_where_nixpkgs_lib_is_looked_for(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    assert nixpkgs_lib(environ) is None
    lib = tmp_path / "smallkube" / "nixpkgs" / "lib"
    lib.mkdir(parents=True)
    (lib / "default.nix").touch()
    assert nixpkgs_lib(environ) == lib
    assert nixpkgs_lib({"SMALLKUBE_NIXPKGS": str(lib.parent)}) == lib
    with pytest.raises(UsageError, match="SMALLKUBE_NIXPKGS=/nowhere"):
        nixpkgs_lib({"SMALLKUBE_NIXPKGS": "/nowhere"})


def test_a_tree_is_written_for_nobody_else_and_stays_inside(tmp_path: Path) -> None:
    materialise({"a/b": b"x"}, tmp_path / "tree")
    assert (tmp_path / "tree" / "a" / "b").read_bytes() == b"x"
    assert (tmp_path / "tree").stat().st_mode & 0o777 == 0o700 & ~_umask()
    with pytest.raises(SmallkubeError, match="tree: can't be written"):
        materialise({"other": b"x"}, tmp_path / "tree")
    assert not (tmp_path / "tree" / "other").exists()
    with pytest.raises(SmallkubeError, match=r"\.\./out: leads out"):
        materialise({"../out": b"x"}, tmp_path / "other")
    assert not (tmp_path / "out").exists()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
