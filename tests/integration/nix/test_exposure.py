"""Proves that docs/security.md has of each of our services the exposure that systemd-analyze(1) security computes."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.checks.evaluate import Description
from smallkube.core import process
from smallkube.core.workspace import REPOSITORY

from .test_services import ours

pytestmark = pytest.mark.integration

Needs = Callable[[str, object, str], None]
TEXT = (REPOSITORY / "docs/security.md").read_text()
TABLE = TEXT.partition("\n## Exposure of the services\n")[2].partition("\n## ")[0]
OTHER_VERSION = 0.3
"""By how much another version of systemd may differ from the one that the table names."""


def exposures(program: Path, units: dict[str, str], folder: Path) -> dict[str, float]:
    found = {}
    for name, text in units.items():
        (folder / name).write_text(re.sub(r"(?m)^(Exec\w+=)([-@:+!|]*)\S+", r"\g<1>\g<2>/bin/true", text))
        result = process.run([program, "security", "--offline=true", "--no-pager", folder / name])
        assert result.ok, f"{name}: {result.stderr}"
        (level,) = re.findall(rf"Overall exposure level for {re.escape(name)}: ([\d.]+)", result.stdout)
        found[name.removesuffix(".service")] = float(level)
    return found


def test_the_table_has_the_exposure_of_each_service(two: dict[str, Description], needs: Needs, tmp_path: Path) -> None:
    program = process.find("systemd-analyze")
    needs("integration", program, "systemd-analyze")
    assert program is not None
    said = {name: float(level) for name, level in re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", TABLE, re.MULTILINE)}
    found = exposures(Path(program), ours(two["node2"]), tmp_path) | exposures(
        Path(program), ours(two["node1"]), tmp_path
    )
    version = re.search(r"\bsystemd (\d+)", process.run([program, "--version"]).stdout)
    stated = re.search(r"\bsystemd (\d+)", TABLE)
    assert version and stated
    tolerance = 0.05 if version[1] == stated[1] else OTHER_VERSION
    assert said.keys() == found.keys()
    assert {name: level for name, level in found.items() if abs(level - said[name]) > tolerance} == {}
