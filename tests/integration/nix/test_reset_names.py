"""`inv nodes.reset` knows every unit, state folder and firewall table that our modules make."""

import re
from pathlib import Path

import pytest

from lab.checks.evaluate import Description
from smallkube.operations import machines

pytestmark = pytest.mark.integration

SCRIPT = (Path(machines.__file__).with_name("scripts") / "reset.sh").read_text()
OURS = re.compile(r"(kube|wgkube|brkube|generate-kubeconfig|etcd|crio|coredns)[a-z-]*\.(service|timer|path|socket)")
STATE = re.compile(r"^(State|Logs)Directory=(\S+)$", re.MULTILINE)


def test_every_unit_of_ours_is_stopped(two: dict[str, Description]) -> None:
    units = {name for each in two.values() for name in each["units"] if OURS.fullmatch(name)}
    assert {"kubelet.service", "etcd.service", "kube-node-roles.timer"} <= units
    assert {name for name in units if name not in SCRIPT} == set()


def test_every_state_folder_of_ours_is_removed(two: dict[str, Description]) -> None:
    units = [(name, unit["text"]) for each in two.values() for name, unit in each["units"].items()]
    parents = {"State": "/var/lib", "Logs": "/var/log"}
    found = {
        f"{parents[kind]}/{folder}"
        for name, text in units
        if OURS.fullmatch(name)
        for kind, folder in STATE.findall(text)
    }
    assert {"/var/lib/etcd", "/var/log/kube-apiserver"} <= found
    assert {folder for folder in found if folder not in SCRIPT.split()} == set()


def test_every_firewall_table_of_ours_is_removed() -> None:
    modules = Path(machines.__file__).parents[2] / "nix/modules"
    named = set(re.findall(r"\b(kube-guard|kube-nat|kube-proxy)\b", (modules / "firewall.nix").read_text()))
    assert {"kube-guard", "kube-nat"} <= named
    assert {name for name in named if f":{name}" not in SCRIPT} == set()
