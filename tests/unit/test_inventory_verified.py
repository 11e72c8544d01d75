"""inventory.check validates an inventory again unless it is the one that it found valid last."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from smallkube.cli.program import main
from smallkube.core.errors import UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory import load, verified
from smallkube.inventory.models import Inventory

Check = Callable[[], tuple[str, bool]]


@pytest.fixture
def check(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Run inventory.check: its standard output, and whether it has validated."""
    validated: list[Path] = []
    real = load.load
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(workspace.root))

    def counted(path: Path) -> Inventory:
        validated.append(path)
        return real(path)

    monkeypatch.setattr(load, "load", counted)

    def run() -> tuple[str, bool]:
        validated.clear()
        try:
            main(["smallkube", "inventory.check"])
        except SystemExit as end:
            assert end.code in (0, UsageError.exit_status)
        return capsys.readouterr().out, bool(validated)

    return run


def test_the_same_inventory_is_validated_once(check: Check) -> None:
    assert check() == ("inventory.yaml: valid, 2 nodes\n", True)
    assert check() == ("inventory.yaml: valid, 2 nodes\n", False)


def test_a_changed_inventory_is_validated(check: Check, workspace: Workspace) -> None:
    check()
    text = workspace.inventory_file.read_text()
    workspace.inventory_file.write_text(f"{text}unknown: 1\n")
    assert [check(), check()] == [("", True)] * 2  # what is wrong is never kept
    workspace.inventory_file.write_text(f"{text}  node3: {{peer_ip: 192.0.2.33}}\n")
    assert check() == ("inventory.yaml: valid, 3 nodes\n", True)


def test_other_code_validates_again(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "inventory/verified.py"  # not the real one: other processes' tests use it now
    shutil.copytree(Path(verified.__file__).parent, code.parent)
    monkeypatch.setattr(verified, "__file__", str(code))
    assert [check()[1], check()[1]] == [True, False]
    os.utime(code.with_name("load.py"), (0, 0))
    assert check()[1]


def test_addons_are_looked_for_each_time(check: Check, workspace: Workspace) -> None:
    addon = workspace.root / "mine.yaml"
    addon.write_text("")
    text = workspace.inventory_file.read_text()
    workspace.inventory_file.write_text(text.replace("cluster:\n", "cluster:\n  addons: [./mine.yaml]\n", 1))
    assert [check()[1], check()[1]] == [True, True]
    addon.unlink()
    assert check() == ("", True)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"digest": 1}', b'{"verified": 1}', b"\xff"])
def test_a_damaged_record_is_ignored(check: Check, workspace: Workspace, damage: bytes) -> None:
    check()
    assert verified.recall(workspace, verified.digest(workspace)) is not None
    workspace.verified_file.write_bytes(damage)
    assert check() == ("inventory.yaml: valid, 2 nodes\n", True)
