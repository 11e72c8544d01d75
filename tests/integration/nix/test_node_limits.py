"""Proves what the kubelet keeps pods from: more of a machine than it can spare, its system calls, a sudden end."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from lab.checks.evaluate import Description
from lab.checks.systemd_text import section
from smallkube.core.workspace import REPOSITORY

from .conftest import Build, Describe

pytestmark = pytest.mark.integration

Cluster = dict[str, Description]
SMALLEST = 900
"""MiB that Linux has of a machine of 1 GB, at least."""
LOGIND = "systemd/logind.conf.d/90-kubelet.conf"


def configured(files: Mapping[str, str], suffix: str) -> str:
    (text,) = [text for path, text in files.items() if path.endswith(suffix)]
    return text


def kubelet(description: Description) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(configured(description["files"], "-kubelet.json"))
    return found


def mebibytes(quantity: str) -> int:
    assert quantity.endswith("Mi")
    return int(quantity.removesuffix("Mi"))


@pytest.mark.parametrize(("node", "said"), [("node1", 868), ("node2", 484)])
def test_what_is_reserved_fits_small_machines(node: str, said: int, two: Cluster) -> None:
    """A kubelet does not start with more than the machine has; ``said`` is what docs/operating.md says."""
    settings = kubelet(two[node])
    parts = (settings["kubeReserved"], settings["systemReserved"])
    reserved = mebibytes(settings["evictionHard"]["memory.available"])
    reserved += sum(mebibytes(part["memory"]) for part in parts)
    assert reserved == said < SMALLEST
    assert f" {said} MiB, " in (REPOSITORY / "docs/operating.md").read_text()
    assert sum(int(part["cpu"].removesuffix("m")) for part in parts) < 500


def environments(description: Description) -> dict[str, dict[str, str]]:
    """Service → what its process is told of Go, where it is told anything."""
    found = {}
    for name, unit in description["units"].items():
        lines = section(unit["text"], "Service").keys.get("Environment", []) if name.endswith(".service") else []
        pairs = (line.strip('"').partition("=") for line in lines)
        if told := {key: value for key, _, value in pairs if key.startswith("GO")}:
            found[name.removesuffix(".service")] = told
    return found


def test_small_machines_alone_have_settings_of_go(build: Build, describe: Describe) -> None:
    few = {"GOGC": "50", "GOMAXPROCS": "1"}
    tree = build((1, 2, 3), nodes={"node1": {"size": "small"}, "node3": {"size": "small"}})
    own = '{ systemd.services.kubelet.environment.GOGC = "75"; }'
    found = describe(tree.with_file("nix/hosts/node3.nix", own))
    workers = dict.fromkeys(("crio", "kubelet"), few)
    assert environments(found["node2"]) == {}
    assert environments(found["node3"]) == workers | {"kubelet": {**few, "GOGC": "75"}}
    assert environments(found["node1"]) == workers | {
        "kube-apiserver": {"GOGC": "50"},
        **dict.fromkeys(("etcd", "kube-controller-manager", "kube-scheduler"), few),
    }


def test_images_go_before_pods_and_soft_before_hard(two: Cluster) -> None:
    for description in two.values():
        settings = kubelet(description)
        hard, soft = settings["evictionHard"], settings["evictionSoft"]
        assert soft.keys() == settings["evictionSoftGracePeriod"].keys() < hard.keys()
        assert mebibytes(soft["memory.available"]) > mebibytes(hard["memory.available"])
        free = 100 - settings["imageGCHighThresholdPercent"]
        for signal in ("nodefs.available", "imagefs.available"):
            assert free > int(soft[signal].rstrip("%")) > int(hard[signal].rstrip("%"))


def test_all_of_the_kubelets_own_thresholds_are_kept(two: Cluster) -> None:
    """Naming one replaces them all (pkg/kubelet/eviction/defaults_linux.go)."""
    own = {"memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree"}
    assert own < kubelet(two["node2"])["evictionHard"].keys()


def test_pods_are_confined_by_default(two: Cluster) -> None:
    for description in two.values():
        settings = kubelet(description)
        assert settings["seccompDefault"] is True
        assert settings["podPidsLimit"] == 4096
        assert settings["maxParallelImagePulls"] == 3
        assert settings["serializeImagePulls"] is False


@pytest.mark.parametrize(("own", "expected"), [("", "45s"), ('"2m"', "2m")])
def test_logind_waits_as_long_as_the_kubelet(own: str, expected: str, build: Build, describe: Describe) -> None:
    text = f"{{ kube.kubeletSettings.shutdownGracePeriod = {own}; }}" if own else "{ }"
    for description in describe(build((1, 2)).with_file("nix/hosts/node2.nix", text)).values():
        if description["node"] == "node2":
            assert kubelet(description)["shutdownGracePeriod"] == expected
        allowed = section(description["etc"][LOGIND]["text"], "Login").last("InhibitDelayMaxSec")
        assert allowed == kubelet(description)["shutdownGracePeriod"]
        trigger = section(description["units"]["systemd-logind.service"]["text"], "Unit").last("X-Reload-Triggers")
        assert re.search(r"90-kubelet\.conf$", description["files"][trigger])


def test_only_root_may_announce_a_shutdown(two: Cluster) -> None:
    """The kubelet ends all pods whoever sends logind's signal."""
    for description in two.values():
        policy = configured(description["files"], "-kubelet-shutdown.conf")
        rules = re.findall(r'<policy (.+)>\s+<(\w+) .*send_member="(\w+)"/>', policy)
        assert rules == [
            ('context="default"', "deny", "PrepareForShutdown"),
            ('user="root"', "allow", "PrepareForShutdown"),
        ]
