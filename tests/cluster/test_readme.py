"""Proves the front door: every command of README's first two sections works on a fresh clone, typed as it stands there,
and so does what `make demo` names to go on with.
"""

import os
import pty
import re
import select
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.cluster import Lab
from lab.places import Places
from lab.workspace import inventory
from smallkube.core.workspace import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
SETUP = "make venv && . .venv/bin/activate"


def commands(section: str) -> list[str]:
    """The lines of the section's shell block, without their comments."""
    found = re.search(rf"^## {section}$.*?^```sh$(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, section
    return [line.split("  #")[0].strip() for line in found[1].strip().splitlines()]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Path:
    """A clone of what is committed and what is not, without anything that was made here."""
    folder = tmp_path_factory.mktemp("clone") / "smallkube"
    listed = subprocess.run(
        ["git", "-C", REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
    ).stdout
    names = b"\0".join(name for name in listed.split(b"\0") if (REPOSITORY / os.fsdecode(name)).exists())
    folder.mkdir()
    packed = subprocess.run(
        ["tar", "-C", REPOSITORY, "--null", "--files-from=-", "-c"], input=names, capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "-C", folder, "-x"], input=packed, check=True)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A newcomer's: labs of its own, the user's cache, nothing of this checkout on PATH."""
    state = tmp_path_factory.mktemp("state")
    path = ":".join(entry for entry in os.environ["PATH"].split(":") if not entry.startswith(str(REPOSITORY)))
    dropped = ("SMALLKUBE_", "PYTEST_", "MAKE", "MFLAGS", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    yield {**kept, "PATH": path, "XDG_STATE_HOME": str(state), "TERM": "xterm", "COLUMNS": "80"}
    for folder in (state / "smallkube/lab").glob("*/"):
        Lab(Places(Places.find(os.environ).cache, folder.parent), folder.name).down()


def typed(lines: list[str], folder: Path, environment: dict[str, str], seconds: float = 900) -> str:
    """Type the lines into a shell on a terminal, answer every question with yes; what the terminal showed."""
    script = "\n".join(["set -e", *(f"printf '$ %s\\n' {shlex.quote(line)}\n{line}" for line in lines)])
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe("bash", ["bash", "-c", script], environment)
    shown, answered = b"", 0
    deadline = time.monotonic() + seconds
    while True:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"no end within {seconds} s:\n{shown.decode(errors='replace')}"
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the other side has closed (EIO, see pty(7))
            break
        if shown.count(b"[y/N]") > answered:
            answered += 1
            os.write(terminal, b"y\n")
    _, status = os.waitpid(pid, 0)
    text = shown.decode(errors="replace")
    assert os.waitstatus_to_exitcode(status) == 0, text
    return text


def test_the_two_commands(clone: Path, environment: dict[str, str]) -> None:
    demo, tests = commands("Two commands")
    shown = typed([demo], clone, environment)
    named = shown.rpartition("To go on:")[2].partition("To take them down:")
    go_on = [line.strip() for line in named[0].strip().splitlines()]
    assert len(go_on) == 4, go_on
    typed(go_on, clone, environment)
    typed([named[2].strip()], clone, environment)
    # The tests themselves run where this one does; here, that a newcomer gets to them.
    typed([tests], clone, {**environment, "PYTEST_ADDOPTS": "--collect-only --quiet"})


def test_five_minutes(clone: Path, environment: dict[str, str], tmp_path: Path) -> None:
    lines = commands("Five minutes")
    assert lines[0] == SETUP
    lab = Lab(Places(Places.find(os.environ).cache, Path(environment["XDG_STATE_HOME"], "smallkube/lab")), "readme")
    lab.up(2, clone, lambda _text: None, lambda _node, _text: None)
    record = lab.record
    assert record
    edited = tmp_path / "inventory.yaml"
    edited.write_text(inventory(record.number, record.nodes, "readme"))
    editor = tmp_path / "editor"
    editor.write_text(f'#!/bin/sh\ncp {edited} "$1"\n')
    editor.chmod(0o755)
    typed(lines, clone, {**environment, "EDITOR": str(editor)})


def test_the_checks_of_the_project_run_every_target() -> None:
    """What neither a test nor the checks run is no promise."""
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = {name for line in re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE) for name in line.split()}
    run = (REPOSITORY / ".ci/run").read_text()
    staged = set(re.findall(r"^stage make (\S+)", run, re.MULTILINE))
    prerequisites = {name for line in re.findall(r"^[a-z-]+: (.+)$", makefile, re.MULTILINE) for name in line.split()}
    by_hand = {"test-minors"}  # builds four minors, and reboots virtual machines
    assert targets - staged - prerequisites - by_hand == {"venv"}
    assert SETUP.startswith("make venv")
