"""The decorator of all tasks: what a failed task says, and the log of the commands that it ran."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import Task

from smallkube.cli import deploy, nodes
from smallkube.cli.context import Current, Limits, task, words
from smallkube.core import log
from smallkube.core.errors import ErrorGroup, SmallkubeError, UsageError
from smallkube.core.workspace import Workspace


@pytest.fixture(autouse=True)
def here(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(workspace.root))
    monkeypatch.delenv("SMALLKUBE_DEBUG", raising=False)


@task()
def work(
    _: Current,
    commands: Annotated[int, Limits(0), "how many"] = 0,
    error: Annotated[Exception | None, "how it ends"] = None,
) -> None:
    """Run commands, and fail."""
    for number in range(commands):
        log.command("node1", f"program{number}", 0.25, "exit status 0")
    if error:
        raise error


@task()
def talk(here: Current) -> bool:
    """Tell whether it was given --verbose."""
    log.command("node1", "date", 0.25, "exit status 0")
    return here.verbose


def failure(error: Exception, commands: int = 1) -> tuple[int, str]:
    with pytest.raises(Exit) as caught:
        work(Context(), commands=commands, error=error)
    return caught.value.code, str(caught.value.message)


def log_of(workspace: Workspace) -> Path:
    return workspace.state_dir / "log"


def test_failure_names_the_log_of_its_commands() -> None:
    error = SmallkubeError("no answer", where="node1", hint="start it")
    assert failure(error) == (1, "node1: no answer; start it (log: .smallkube/log)")


def test_failures_of_several_nodes_name_the_log_once() -> None:
    errors = ErrorGroup([SmallkubeError("no answer", where="node1"), SmallkubeError("no answer", where="node2")])
    assert failure(errors) == (1, "node1: no answer\nnode2: no answer (log: .smallkube/log)")


def test_failure_without_commands_names_no_log(workspace: Workspace) -> None:
    assert failure(SmallkubeError("stale"), commands=0) == (1, "stale")
    assert not workspace.state_dir.exists()


def test_wrong_usage_names_no_log() -> None:
    assert failure(UsageError("no node7")) == (2, "no node7")


def test_log_that_cannot_be_written_is_not_named(workspace: Workspace) -> None:
    workspace.state_dir.write_text("a file in its place")
    assert failure(SmallkubeError("no answer")) == (1, "no answer")


def test_log_has_each_command_once_and_is_private(workspace: Workspace) -> None:
    work(Context(), commands=1)
    work(Context(), commands=2)
    file = log_of(workspace)
    names = [line.split(" node1: ")[1] for line in file.read_text().splitlines()]
    assert names == [f"program{number}: exit status 0 after 0.2 s" for number in (0, 0, 1)]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_log_shows_control_characters_instead_of_obeying(workspace: Workspace) -> None:
    with log.recording(log_of(workspace), shown=False):
        log.command("node1", "date", 0.1, "lost\n\x1b[2J")
    assert log_of(workspace).read_text().endswith("date: lost\\n\\x1b[2J after 0.1 s\n")


def test_folder_without_inventory_gets_no_log(workspace: Workspace) -> None:
    workspace.inventory_file.unlink()
    work(Context(), commands=1)
    assert list(workspace.root.iterdir()) == []


def test_verbose_shows_each_command_and_logs_it(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    work(Context(), commands=2, verbose=True)
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [f"node1: program{number}: exit status 0 after 0.2 s" for number in (0, 1)]
    assert shown.out == "" and len(log_of(workspace).read_text().splitlines()) == 2


def test_commands_are_not_shown_without_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    work(Context(), commands=2)
    assert capsys.readouterr() == ("", "")


def test_task_with_a_verbose_of_its_own_is_given_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert (talk(Context(), verbose=True), talk(Context())) == (True, False)
    assert capsys.readouterr().err == "node1: date: exit status 0 after 0.2 s\n"


def test_interruption_says_how_to_resume() -> None:
    with pytest.raises(Exit) as caught:
        work(Context(), error=KeyboardInterrupt())
    assert (caught.value.code, "run the same command again" in str(caught.value.message)) == (130, True)


def test_debug_lets_the_traceback_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLKUBE_DEBUG", "1")
    with pytest.raises(SmallkubeError):
        work(Context(), error=SmallkubeError("no answer"))


def test_repeatable_flag_accepts_commas() -> None:
    assert words(["node1,node2", "node3", ""]) == ("node1", "node2", "node3")
    assert words([]) == ()


def refusal(task: Task[Any], **values: int) -> str:
    with pytest.raises(Exit) as caught:
        task(Context(), **values)
    assert caught.value.code == 2
    return str(caught.value.message)


def test_number_below_its_least_is_refused() -> None:
    work(Context(), commands=0)
    assert refusal(work, commands=-1) == "--commands -1: must be at least 0"


@pytest.mark.parametrize(
    ("task", "flag", "values", "limits"),
    [
        (deploy.deploy, "confirm_timeout", (-1, 0, 9, 3601), "from 10 to 3600"),
        (deploy.rollback, "confirm_timeout", (9, 3601), "from 10 to 3600"),
        (deploy.deploy, "batch", (-3,), "at least 0"),
        (deploy.deploy, "max_failures", (-1,), "at least 0"),
        (nodes.reboot, "timeout", (9, 90_000), "from 10 to 86400"),
        (nodes.reboot, "drain_timeout", (0,), "from 10 to 86400"),
        (nodes.exec_, "timeout", (0, -1, 10**9), "from 1 to 86400"),
    ],
)
def test_numbers_that_can_not_be_meant(task: Task[Any], flag: str, values: tuple[int, ...], limits: str) -> None:
    for value in values:
        assert refusal(task, **{flag: value}) == f"--{flag.replace('_', '-')} {value}: must be {limits}"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.ENAMETOOLONG])
def test_fault_of_the_disk_is_one_line(number: int) -> None:
    status, text = failure(OSError(number, os.strerror(number), "/keys/a\nb"), commands=0)
    assert status == 1 and text.startswith(f"/keys/a\\nb: can't be used: {os.strerror(number)}")


def test_result_that_cannot_be_printed_is_one_line() -> None:
    argv = [sys.executable, "-c", "from smallkube.cli.program import main; main(['smallkube', 'inventory.schema'])"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "can't be used: No space left on device; make room\n")
