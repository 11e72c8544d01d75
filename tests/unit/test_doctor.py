"""Proves what `inv doctor` makes of what it finds: states, exit status, and commands that fit the distribution."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lab import image, machine
from smallkube.core import ui
from smallkube.core.checks import Result, failed
from smallkube.core.workspace import REPOSITORY, Workspace
from smallkube.doctor import diagnosis
from smallkube.doctor.diagnosis import Finding
from smallkube.doctor.facts import Facts, read
from smallkube.doctor.table import TOOLS, Family

WELL = Facts(
    family=Family.DEBIAN,
    distribution="Debian",
    python="3.11.2",
    packages={"invoke": "2.2.1", "PyYAML": "6.0.3", "backports.zstd": "0.18", "pytest": "9.2.0"},
    required=("invoke>=2.2", "pyyaml>=6.0", "backports.zstd>=0.18"),
    required_for_tests=("pytest>=8.2",),
    programs={program: "1.0" for tool in TOOLS for program in tool.programs},
    root=True,
    tun=True,
    inventory="",
    nodes=("node1", "node2"),
    without_host_key=(),
    identity="keys/master_key",
    master_mode=0o600,
    exposed={},
)


def without(*programs: str) -> Facts:
    return replace(WELL, programs={name: "" for name in WELL.programs if name not in programs})


def finding(facts: Facts, name: str) -> Finding:
    return next(found for found in diagnosis.diagnose(facts) if found.check == name)


def blocking(facts: Facts) -> list[str]:
    return [found.check for found in failed(diagnosis.diagnose(facts))]


def test_a_machine_with_everything_needs_nothing() -> None:
    rows = diagnosis.diagnose(WELL)
    assert {found.result for found in rows} == {Result.OK}
    assert diagnosis.remedies(rows, WELL.family) == ()
    assert blocking(WELL) == []


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (without("ssh"), "ssh"),
        (replace(WELL, packages={**WELL.packages, "invoke": "2.1.9"}), "invoke"),
        (replace(WELL, packages={"invoke": "2.2.1", "backports_zstd": "0.18"}), "pyyaml"),
        (replace(WELL, inventory=None), "inventory.yaml"),
        (replace(WELL, inventory="3 problems"), "inventory.yaml"),
        (replace(WELL, master_mode=0o644), "keys/master_key"),
        (replace(WELL, exposed={".smallkube/kubeconfig": ("is tracked", "git rm")}), ".smallkube/kubeconfig"),
    ],
)
def test_what_stops_the_core_tasks(facts: Facts, name: str) -> None:
    assert blocking(facts) == [name]
    assert finding(facts, name).install


@pytest.mark.parametrize(
    ("facts", "name", "found"),
    [
        (without("age"), "age", "missing"),
        (without("nsenter"), "util-linux", "no nsenter"),
        (replace(WELL, packages={**WELL.packages, "pytest": "8.1.9"}), "pytest", "8.1.9, not 8.2"),
        (replace(WELL, root=False), "root", "not root"),
        (replace(WELL, tun=False), "/dev/net/tun", "missing"),
        (replace(WELL, without_host_key=("node2",)), "keys/hosts", "1 of 2 missing"),
        (replace(WELL, master_mode=None), "keys/master_key", "missing"),
    ],
)
def test_what_is_lacking_but_stops_only_other_tasks(facts: Facts, name: str, found: str) -> None:
    lacking = finding(facts, name)
    assert lacking.result is Result.WARNING
    assert (lacking.detail, bool(lacking.install)) == (found, True)
    assert blocking(facts) == []


@pytest.mark.parametrize("version", ["2.2", "2.10", "10", "2.2.0rc1"])
def test_versions_are_compared_as_numbers(version: str) -> None:
    assert finding(replace(WELL, packages={**WELL.packages, "invoke": version}), "invoke").result is Result.OK


@pytest.mark.parametrize(
    ("identifiers", "expected", "command"),
    [
        ("debian", Family.DEBIAN, "apt-get install openssh-client nix-bin shellcheck"),
        ("linuxmint ubuntu debian", Family.DEBIAN, "apt-get install openssh-client nix-bin shellcheck"),
        ("nixos", Family.NIXOS, "nix-shell -p openssh nix shellcheck"),
        ("rocky rhel centos fedora", Family.FEDORA, "dnf install openssh-clients nix ShellCheck"),
        ("manjaro arch", Family.ARCH, "pacman -S openssh nix shellcheck"),
        ("void", Family.OTHER, "install the packages openssh nix shellcheck"),
    ],
)
def test_one_command_installs_all_that_is_missing(identifiers: str, expected: Family, command: str) -> None:
    found = Family.of(identifiers)
    facts = replace(without("ssh", "ssh-keygen", "nix-instantiate", "shellcheck"), family=found)
    assert found is expected
    assert diagnosis.remedies(diagnosis.diagnose(facts), found) == (command,)


def test_the_report_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = replace(WELL, programs={}, packages={}, root=False, tun=False, inventory=None, nodes=())
    rows = diagnosis.diagnose(nothing)
    ui.table(("WHAT", "RESULT", "FOUND", "NEEDED FOR"), [(r.check, r.result, r.detail, r.needed_for) for r in rows])
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80


def test_every_program_that_the_lab_needs_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    needed = {Path(name).name for name in (*machine.needed_here(), *image.NEEDED_HERE)}
    assert needed <= {program for tool in TOOLS if "lab." in tool.needed_for for program in tool.programs}


def test_setup_installs_what_doctor_asks_for() -> None:
    always_there = {"apt"}
    installed = (REPOSITORY / "setup.sh").read_text().split('packages="')[1].split('"')[0].split()
    assert {tool.package_on(Family.DEBIAN) for tool in TOOLS} - always_there <= set(installed)


def test_looking_finds_this_python_and_this_workspace(workspace: Workspace) -> None:
    workspace.hosts_keys_dir.mkdir(parents=True)
    (workspace.hosts_keys_dir / "node2.pub").write_text("")
    workspace.master_key.write_text("")
    workspace.master_key.chmod(0o640)
    facts = read(workspace)
    assert (facts.inventory, list(facts.nodes), facts.without_host_key) == ("", ["node1", "node2"], ["node1"])
    assert facts.master_mode == 0o640
    assert finding(facts, "invoke").result is Result.OK


def test_looking_says_what_is_wrong_with_an_inventory(workspace: Workspace) -> None:
    workspace.inventory_file.write_text("cluster: {nome: x}\nnodes: {}\n")
    assert "problems" in (read(workspace).inventory or "")
    workspace.inventory_file.unlink()
    assert read(workspace).inventory is None
