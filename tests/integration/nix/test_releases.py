"""Proves that the configuration evaluates for each supported release of NixOS and minor of Kubernetes: the programs are
the minor's, the options as strict as the release's; and that a package of another minor is refused."""

from pathlib import Path

import pytest

from lab import standins
from lab.kubernetes import MINOR
from smallkube.core import process
from smallkube.core.checks import Result, failed
from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import ClusterSettings
from smallkube.inventory.releases import MINORS, PINS, RELEASES
from smallkube.nix import flake
from smallkube.nix.bundle import write_tree
from smallkube.nix.check import check
from smallkube.nix.flake import Flake

from .conftest import Build, Describe, Tree

pytestmark = pytest.mark.integration

PAIRS = [(nixos, minor) for nixos in RELEASES for minor in MINORS]
NAMED = "a" * 40
REMOVED = 'options.services.resolved.extraConfig = lib.mkOption { default = ""; apply = _: throw "removed"; };'
"""What NixOS does about an option that a release no longer has: mkRemovedOptionModule (lib/modules.nix)."""
UNITS = ("kube-apiserver", "kube-scheduler", "kube-controller-manager", "kubelet", "kube-proxy")


def settings(nixos: str, minor: str) -> dict[str, str]:
    named = {} if minor in PINS else {"kubernetes_nixpkgs": NAMED}
    return {"nixos": nixos, "kubernetes": minor, **named}


@pytest.mark.parametrize(("nixos", "minor"), PAIRS)
def test_each_pair_evaluates_without_complaint(nixos: str, minor: str, build: Build, describe: Describe) -> None:
    found = describe(build((1, 2), **settings(nixos, minor)))
    folder = "kubernetes" if minor == MINOR else f"kubernetes-{minor}"
    for node in found.values():
        assert (node["failedAssertions"], node["warnings"], node["unsupported"]) == ([], [], [])
        for unit in UNITS if node["node"] == "node1" else UNITS[3:]:
            assert f"/pkgs/{folder}/bin/{unit} " in node["units"][f"{unit}.service"]["text"]


@pytest.mark.parametrize(("nixos", "minor"), PAIRS)
def test_the_flake_evaluates_and_names_its_inputs(
    nixos: str, minor: str, build: Build, tmp_path: Path, store: str
) -> None:
    cluster = ClusterSettings.model_validate({"name": "test", **settings(nixos, minor)})
    tree: Tree = build((1, 2), **settings(nixos, minor))
    inputs = {name: f"path:{path}" for name, path in standins.inputs(cluster, tmp_path).items()}
    checks = check(tree.files, tree.nodes, inputs)
    assert failed(checks) == ()
    (used,) = [each.detail for each in checks if each.check == "inputs"]
    names = [name for name, _, _ in (word.partition(" path:") for word in used.split(", "))]
    second = ["kubernetes-nixpkgs"] if RELEASES[nixos] != minor else []
    assert sorted(names) == sorted(["nixpkgs", "agenix", *second])
    assert [each.result for each in checks if each.check == "evaluation"] == [Result.OK, Result.OK]
    program = process.find("nix")
    assert program
    write_tree(tree.files, tmp_path / "tree")
    versions = Flake(program, flake.url(program, tmp_path / "tree"), inputs).versions("node1")
    assert versions["kubernetes"].startswith(f"{minor}.")
    assert versions["etcd"] == "3.6.6"


def test_a_package_of_another_minor_is_refused(build: Build, describe: Describe) -> None:
    tree = build((1, 2)).replacing("nix/rendered/cluster.nix", 'kubernetesMinor = "1.36"', 'kubernetesMinor = "1.35"')
    (complaint,) = describe(tree)["node1"]["failedAssertions"]
    assert "demands Kubernetes 1.35, but the package is 1.36.3; name a revision of nixpkgs" in complaint


@pytest.mark.parametrize(
    ("nixos", "setting"),
    [
        ("25.11", 'services.resolved.settings.Resolve.DNSStubListener = "yes"'),
        ("26.05", 'services.resolved.extraConfig = "DNS=192.0.2.1"'),
        ("26.05", 'services.resolved.dnssec = "true"'),
    ],
)
def test_an_option_of_another_release_is_unknown(nixos: str, setting: str, build: Build, describe: Describe) -> None:
    tree = build((1, 2), nixos=nixos, kubernetes=RELEASES[nixos])
    with pytest.raises(SmallkubeError, match="does not exist"):
        describe(tree.with_file("nix/modules/default.nix", f"{{ {setting}; }}"))


@pytest.mark.parametrize(
    ("nixos", "setting"),
    [
        ("25.11", 'services.resolved.extraConfig = "DNSStubListener=no"'),
        ("26.05", 'services.resolved.settings.Resolve.DNSStubListener = "no"'),
        ("26.05", f"{REMOVED} config.services.resolved.settings.Resolve.DNSStubListener = false"),
    ],
)
def test_the_stub_listener_is_found_in_each_release(nixos: str, setting: str, build: Build, describe: Describe) -> None:
    tree = build((1, 2), nixos=nixos, kubernetes=RELEASES[nixos]).with_file(
        "nix/hosts/node2.nix", f"{{ lib, ... }}: {{ {setting}; }}"
    )
    (complaint,) = describe(tree)["node2"]["failedAssertions"]
    assert "stub listener" in complaint


@pytest.mark.parametrize(("minor", "refused"), [("1.35", False), ("1.36", True), ("1.37", True)])
def test_a_removed_feature_gate_is_refused(minor: str, refused: bool, build: Build, describe: Describe) -> None:
    gates = 'kube.apiserver.flags.feature-gates = "StructuredAuthorizationConfiguration=true"'
    tree = build((1,), **settings("25.11", minor)).with_file("nix/hosts/node1.nix", f"{{ {gates}; }}")
    complaints = describe(tree)["node1"]["failedAssertions"]
    assert ["has no feature gate StructuredAuthorizationConfiguration" in text for text in complaints] == [
        True
    ] * refused


def test_a_machine_may_replace_single_packages(build: Build, describe: Describe) -> None:
    own = "{ pkgs, ... }: { kube.etcdPackage = pkgs.etcd_3_6; kube.crioPackage = pkgs.cri-o-unwrapped; }"
    node = describe(build((1,)).with_file("nix/hosts/node1.nix", own))["node1"]
    assert "/pkgs/etcd_3_6/bin/etcd " in node["units"]["etcd.service"]["text"]
    assert "/pkgs/cri-o-unwrapped/bin/crio" in node["units"]["crio.service"]["text"]
    assert node["failedAssertions"] == []


LEAF = "# {node}\n-----BEGIN CERTIFICATE-----\n{leaf}\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("minor", "node", "restarts"),
    [
        ("1.35", "node2", True),
        ("1.36", "node2", False),
        ("1.36", "node1", True),  # a rotation
    ],
)
def test_a_new_kubelet_is_known_without_a_restart_where_it_can(
    minor: str, node: str, restarts: bool, build: Build, describe: Describe, tmp_path: Path
) -> None:
    """What systemctl does is the lab's to show: tests/cluster/test_identities.py."""
    found = describe(build((1,), **settings("26.05", minor)))["node1"]
    (script,) = [text for path, text in found["scripts"].items() if path.endswith("-kube-identities-kubelets")]
    (tmp_path / "systemctl").write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\n')
    (tmp_path / "systemctl").chmod(0o755)
    text = script.replace("export PATH=", f"PATH={tmp_path}:$PATH\nPATH_ON_NODES=")
    text = text.replace("/var/lib/kube-identities/", f"{tmp_path}/")
    given, file, known = tmp_path / "given", tmp_path / "kubelets.crt", tmp_path / "kubelets.crt.known"

    def deploy(*leaves: tuple[str, str]) -> str:
        given.write_text("".join(LEAF.format(node=node, leaf=leaf) for node, leaf in leaves))
        (tmp_path / "calls").write_text("")
        assert process.run(["bash", "-c", text, "kubelets", str(given)]).ok
        assert file.read_text() == given.read_text()
        return (tmp_path / "calls").read_text().strip()

    first, new = ("node1", "AAAA"), (node, "BBBB")
    does = "--no-block try-restart kube-apiserver.service" if restarts else ""
    assert deploy(first) == ""  # before the first start
    known.write_text(file.read_text())  # as the unit of the API server does
    assert deploy(first, new) == does
    assert deploy(first, new) == ""
    assert (known.read_text() == file.read_text()) == (not restarts)
    assert deploy(first) == ""
    assert deploy(first, (node, "CCCC")) == does  # the same node, installed again
