"""Proves the front door: every command of README's first two sections works on a fresh clone, typed as it stands there,
and so does what `make demo` names to go on with.
"""

import os
import re
from pathlib import Path

from lab.cluster import Lab
from lab.places import Places
from lab.workspace import inventory
from smallkube.core.workspace import REPOSITORY
from tests.typed import commands, typed

README = (REPOSITORY / "README.md").read_text()
SETUP = "make venv && . .venv/bin/activate"


def test_the_two_commands(clone: Path, environment: dict[str, str]) -> None:
    demo, tests = commands(README, "Two commands")
    shown = typed([demo], clone, environment)
    named = shown.rpartition("To go on:")[2].partition("To take them down:")
    go_on = [line.strip() for line in named[0].strip().splitlines()]
    assert len(go_on) == 4, go_on
    typed(go_on, clone, environment)
    typed([named[2].strip()], clone, environment)
    # The tests themselves run where this one does; here, that a newcomer gets to them.
    typed([tests], clone, {**environment, "PYTEST_ADDOPTS": "--collect-only --quiet"})


def test_five_minutes(clone: Path, environment: dict[str, str], tmp_path: Path) -> None:
    lines = commands(README, "Five minutes")
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
    staged = set(re.findall(r"^(?:stage|setsid) make (\S+)", run, re.MULTILINE))
    prerequisites = {name for line in re.findall(r"^[a-z-]+: (.+)$", makefile, re.MULTILINE) for name in line.split()}
    # Builds four minors, and reboots virtual machines; keeps a machine busy with hundreds of nodes.
    by_hand = {"test-minors", "bench-scale"}
    # These are typed above, the tests themselves being run by test-all; test_reference.py compares what docs makes.
    tested = {"venv", "test", "docs"}
    assert targets - staged - prerequisites - by_hand == tested
    assert SETUP.startswith("make venv") and "make test" in commands(README, "Two commands")
