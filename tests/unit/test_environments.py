"""What the control room may be: a user without a name or a home, any encoding, hardly a variable."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from smallkube.core.workspace import REPOSITORY

NAMELESS = """
import pwd, sys
def unknown(_):
    raise KeyError("getpwuid(): uid not found")
pwd.getpwuid = unknown
from smallkube.cli.program import main
for task in sys.argv[1:]:
    try:
        main(["smallkube", task])
    except SystemExit as end:
        assert not end.code, task
"""
TASKS = ["--list", "inventory.show", "keys.generate", "nix.render", "etcd.schedule"]
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "hardly a variable": {},
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ASCII": {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "no home, no temporary folder": {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"},
    "dumb terminal": {"TERM": "dumb", "COLUMNS": "0", "NO_COLOR": "1"},
}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_user_without_a_name_can_work(environment: str, template: Path, tmp_path: Path) -> None:
    root = shutil.copytree(template, tmp_path / "caf\xe9")
    inventory = root / "inventory.yaml"
    inventory.write_text(inventory.read_text().replace("nodes:", "  backup: {dir: \u2603}\nnodes:"), "utf-8")
    variables = {"PATH": os.environ["PATH"], "SMALLKUBE_WORKSPACE": str(root), **ENVIRONMENTS[environment]}
    argv = [sys.executable, "-c", NAMELESS, *TASKS]
    done = subprocess.run(argv, cwd=REPOSITORY, env=variables, capture_output=True, check=False)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done
