"""Proves that the add-ons of the catalogue are complete manifests, applied in order and deleted when not chosen."""

import hashlib
import re
from typing import Any

import pytest
import yaml

from lab.checks.evaluate import Description
from smallkube.core.workspace import REPOSITORY
from smallkube.inventory.fields import CATALOGUE
from tests.integration.nix.conftest import Build, Describe

FOLDER = REPOSITORY / "nix/addons/catalogue"
MORE_RIGHTS = {"network-policy": (["NET_ADMIN"], True)}
"""Capabilities of an add-on's containers, and whether they run as root."""


def objects(text: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text))


def activation(described: Description) -> str:
    scripts: dict[str, str] = described["scripts"]
    (script,) = [text for path, text in scripts.items() if path.endswith("-kube-activation")]
    return script


def test_names_are_those_of_the_manifests() -> None:
    assert sorted(file.name for file in FOLDER.iterdir()) == [f"{name}.yaml" for name in CATALOGUE]


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_object_can_be_found_by_its_label(name: str, two: dict[str, Description]) -> None:
    found = objects((FOLDER / f"{name}.yaml").read_text())
    assert {entry["metadata"]["labels"]["smallkube/addon"] for entry in found} == {name}
    (own,) = [entry["metadata"]["name"] for entry in found if entry["kind"] == "Namespace"]
    others = {entry["kind"].lower() for entry in found if entry["metadata"].get("namespace") != own}
    (deleted,) = re.findall(r" delete (\S+) --all-namespaces ", activation(two["node1"]))
    assert {f"{kind}{'es' if kind.endswith('s') else 's'}" for kind in others} <= set(deleted.split(","))


@pytest.mark.parametrize("name", CATALOGUE)
def test_images_are_pinned_and_containers_restricted(name: str) -> None:
    found = objects((FOLDER / f"{name}.yaml").read_text())
    pods = [entry["spec"]["template"]["spec"] for entry in found if entry["kind"] in ("Deployment", "DaemonSet")]
    capabilities, as_root = MORE_RIGHTS.get(name, ([], False))
    assert pods
    for pod in pods:
        assert pod["securityContext"].get("runAsNonRoot", False) is not as_root
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert re.search(r":v\d+\.\d+\.\d+$", container["image"])
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            expected = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"], **({"add": capabilities} if capabilities else {})},
            }
            assert container["securityContext"] == expected


def test_addons_are_applied_in_their_order(build: Build, describe: Describe) -> None:
    tree = build((1, 2), addons=[])
    rendered = "nix/rendered/cluster.nix"
    own = tree.with_file("mine.yaml", "{}")
    tree = own.replacing(rendered, "userAddons = [ ]", 'userAddons = [ "metrics-server" ../../mine.yaml "local-path" ]')
    script = activation(describe(tree)["node1"])
    applied = re.findall(r"^apply \S+/[^-]+-(\S+\.yaml)$", script, re.MULTILINE)
    assert applied[-3:] == ["metrics-server.yaml", "mine.yaml", "local-path.yaml"]
    assert "notin (none,metrics-server,local-path)'" in script


def test_addons_not_chosen_are_deleted_first(two: dict[str, Description]) -> None:
    script = activation(two["node1"])
    deleted = script.index("--selector='smallkube/addon,smallkube/addon notin (none)'")
    assert deleted < script.index("\napply /nix/store/")
    assert "openssl req" not in script


def test_metrics_server_gets_every_kubelets_certificate(build: Build, describe: Describe) -> None:
    described = describe(build((1, 2), addons=["metrics-server"]))["node1"]
    (text,) = [text for path, text in described["files"].items() if path.endswith("-metrics-server.yaml")]
    found = {(entry["kind"], entry["metadata"]["name"]): entry for entry in objects(text)}
    trusted = found["ConfigMap", "kubelet-certificates"]["data"]["trusted.crt"]
    assert trusted == "throw-away kubelet_node1.crt\nthrow-away kubelet_node2.crt\n"
    template = found["Deployment", "metrics-server"]["spec"]["template"]
    annotations = template["metadata"]["annotations"]
    assert annotations == {"smallkube/kubelet-certificates": hashlib.sha256(trusted.encode()).hexdigest()}
    assert "@" not in text
    assert "openssl req" in activation(described)


def test_the_controller_of_policies_only_reads() -> None:
    found = objects((FOLDER / "network-policy.yaml").read_text())
    (rules,) = [entry["rules"] for entry in found if entry["kind"] == "ClusterRole"]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"list", "watch"}
    assert {name for rule in rules for name in rule["resources"]} == {"namespaces", "pods", "networkpolicies"}
    (daemons,) = [entry["spec"] for entry in found if entry["kind"] == "DaemonSet"]
    (container,) = daemons["template"]["spec"]["containers"]
    assert {"name": "FAIL_OPEN", "value": "false"} in container["env"]


@pytest.mark.parametrize("chosen", [[], ["network-policy"]])
def test_policies_are_lifted_before_their_controller_goes(chosen: list[str], build: Build, describe: Describe) -> None:
    script = activation(describe(build((1, 2), addons=chosen))["node1"])
    lifted, deleted = script.find("FAIL_OPEN=true"), script.index(" delete apiservices,")
    assert lifted == -1 if chosen else 0 < lifted < deleted
