"""`inv doctor` on this machine: it names real versions, needs nothing but Invoke, and tells by its exit status."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def cluster(make_cluster: Callable[..., Any]) -> Any:
    return make_cluster((1, 2))


def rows(text: str) -> dict[str, dict[str, Any]]:
    return {row["check"]: row for row in json.loads(text)}


def test_versions_are_those_of_the_programs(cluster: Any) -> None:
    found = rows(cluster.done("doctor", "--json"))
    assert found["invoke"]["result"] == "ok"
    assert found["keys/hosts"]["detail"] == "all 2"
    if found["git"]["result"] == "ok":
        said = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True).stdout
        assert found["git"]["detail"] in said


def test_an_empty_path_is_seen_and_stops_the_core_tasks(cluster: Any, tmp_path: Path) -> None:
    run = cluster.inv("doctor", PATH=str(tmp_path))
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("keys.*, nix.render or deploy can't work here: ssh")
    assert "to do: " in run.stderr
    assert max(len(line) for line in run.stdout.splitlines()) <= 80


def test_it_works_where_python_packages_are_missing(cluster: Any, tmp_path: Path) -> None:
    for name in ("pydantic", "rich", "fabric", "yaml"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('gone', name={name!r})\n")
    run = cluster.fresh_inv("doctor", "--json", PYTHONPATH=str(tmp_path))
    assert run.returncode == 1
    assert rows(run.stdout)["inventory.yaml"]["detail"].startswith("not read: no ")
    assert "Traceback" not in run.stderr
