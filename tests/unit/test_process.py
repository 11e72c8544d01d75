"""How programs of this machine are started: no shell, no inherited secrets, always an end, each in the log."""

import sys
from pathlib import Path

import pytest

from smallkube.core import log, process
from smallkube.core.errors import SmallkubeError


def python(*code: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(code)]


def test_arguments_and_output_arrive_unchanged() -> None:
    code = python("import sys", "print(sys.argv[1:], sys.stdin.read())", "sys.stderr.write('e')", "sys.exit(3)")
    result = process.run([*code, "$HOME; `x`", "ä"])
    assert (result.status, result.stdout, result.stderr) == (3, "['$HOME; `x`', 'ä'] \n", "e")
    assert not result.ok


def test_only_a_plain_environment_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    result = process.run(python("import os", "print('SECRET' in os.environ, os.environ['A'])"), environment={"A": "b"})
    assert result.stdout == "False b\n"


@pytest.mark.parametrize("rest", ["time.sleep(600)", "[(print('x'), time.sleep(0.01)) for _ in iter(int, 1)]"])
def test_time_limit_ends_silent_and_talking_programs(rest: str) -> None:
    result = process.run(python("import time", "print('x', flush=True)", rest), timeout=1)
    assert (result.stopped, result.ok, result.stdout[:2]) == (True, False, "x\n")


def test_time_limit_ends_program_that_closed_its_output() -> None:
    result = process.run(python("import os, time", "os.close(1)", "os.close(2)", "time.sleep(600)"), timeout=1)
    assert result.stopped


def test_output_limit_ends_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MAX_BYTES", 1 << 20)
    with pytest.raises(SmallkubeError, match="printed more than 1 MiB"):
        process.run(python("while True: print('x' * 100000)"))


def test_absent_program_is_not_started() -> None:
    assert process.find("no-such-program") is None
    for run in (process.run, process.run_interactive):
        with pytest.raises(process.NotStarted, match="no-such-program: can't be started"):
            run(["no-such-program"])


def test_daemon_is_ended_once_it_has_said_what_matters() -> None:
    code = ("import sys, time", "print('one', file=sys.stderr)", "print('ready', file=sys.stderr, flush=True)")
    result = process.run(python(*code, "time.sleep(600)"), until="ready", timeout=60)
    assert (result.stderr, result.stopped) == ("one\nready\n", False)


def test_silent_daemon_is_killed() -> None:
    result = process.run(python("import time", "time.sleep(600)"), until="ready", timeout=0.5)
    assert (result.stderr, result.stopped) == ("", True)


def test_each_run_is_logged_without_its_arguments(tmp_path: Path) -> None:
    with log.recording(tmp_path / "log", shown=False):
        process.run([*python("import sys", "sys.exit(3)"), "a-secret"])
        process.run_interactive([*python(""), "a-secret"])
        process.run(python("import time", "time.sleep(600)"), timeout=0.1)
        with pytest.raises(process.NotStarted):
            process.run(["no-such-program", "a-secret"])
    text = (tmp_path / "log").read_text()
    name = Path(sys.executable).name
    outcomes = (f"{name}: exit status 3", f"{name}: exit status 0", f"{name}: time limit", "no-such-program: failed")
    lines = text.splitlines()
    assert len(lines) == len(outcomes)
    assert all(f"local: {outcome}" in line for outcome, line in zip(outcomes, lines, strict=True))
    assert "a-secret" not in text
