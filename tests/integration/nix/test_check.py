"""Proves that `nix.check` finds what evaluation alone accepts, with the real systemd-analyze, nft, systemd-networkd and
shellcheck; that one broken node does not hide the others; and that it says what it could not check."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from smallkube.core import process
from smallkube.nix.check import CLUSTER, Outcome, Report, check

from .conftest import CLUSTERS, Build, Tree

pytestmark = pytest.mark.integration

Needs = Callable[[str, object, str], None]
HOST = "nix/hosts/node2.nix"


@pytest.fixture
def tree(build: Build) -> Tree:
    return build((1, 2))


def outcomes(report: Report) -> dict[tuple[str, str], Outcome]:
    return {(finding.node, finding.check): finding.outcome for finding in report.findings}


def details(report: Report, name: str, node: str = "node2") -> str:
    return "\n".join(text for f in report.findings if (f.node, f.check) == (node, name) for text in f.details)


@pytest.mark.parametrize("indices", CLUSTERS.values(), ids=CLUSTERS)
def test_the_configuration_as_it_is(indices: tuple[int, ...], build: Build, nix: str, needs: Needs) -> None:
    programs = ("systemd-analyze", "nft", "shellcheck", "unshare")
    missing = [name for name in programs if process.find(name) is None]
    needs("integration", not missing and os.geteuid() == 0, f"root and {', '.join(missing) or 'namespaces'}")
    tree = build(indices)
    report = check(tree.files, tree.nodes)
    assert report.failed == ()
    assert report.not_checked == ()
    assert list(report.descriptions) == list(tree.nodes)


FAULTS = [
    ("units", '{ systemd.services.x = { script = "true"; serviceConfig.Restrat = "always"; }; }', "Restrat"),
    ("units", '{ systemd.services.x = { script = "true"; serviceConfig.RestartSec = "soon"; }; }', "soon"),
    ("units", '{ systemd.services.x = { serviceConfig.Type = "oneshot"; }; }', "x.service"),
    ("firewall", '{ networking.firewall.extraInputRules = "tcp dprot 1 accept"; }', "dprot"),
    (
        "firewall",
        '{ networking.nftables.tables.t = { family = "ip"; content = "chain c { jump nowhere }"; }; }',
        "nowhere",
    ),
    (
        "network files",
        '{ systemd.network.networks."20-x" = { matchConfig.Name = "x"; networkConfig.Adress = "1"; }; }',
        "Adress",
    ),
    (
        "network files",
        '{ systemd.network.networks."20-x" = { matchConfig.Name = "x"; address = [ "1.2.3.4/99" ]; }; }',
        "1.2.3.4/99",
    ),
    ("network files", '{ systemd.network.netdevs."20-x".netdevConfig = { Name = "x"; Kind = "brigde"; }; }', "brigde"),
    ("scripts", '{ systemd.services.x.script = "cd $HOME; rm -rf $1/*"; }', "SC2086"),
    ("scripts", '{ system.activationScripts.x = "if true; then echo"; }', "SC1046"),
    ("scripts", '{ environment.etc.x.text = "${pkgs.writeShellScript "hidden" "echo $(("}"; }', "hidden"),
    ("consistency", '{ systemd.services.x = { script = "true"; after = [ "etcd.service" ]; }; }', "etcd.service"),
    ("assertions", '{ assertions = [ { assertion = false; message = "no way"; } ]; }', "no way"),
]


@pytest.mark.parametrize(("name", "configuration", "complaint"), FAULTS)
def test_faults_are_found(name: str, configuration: str, complaint: str, tree: Tree, nix: str, needs: Needs) -> None:
    needs("integration", os.geteuid() == 0, "root, for namespaces")
    report = check(tree.with_file(HOST, f"{{ pkgs, ... }}: {configuration}").files, tree.nodes)
    assert complaint in details(report, name)
    assert {(finding.node, finding.check) for finding in report.failed} == {("node2", name)}


def test_a_node_that_does_not_evaluate_leaves_the_others_checked(tree: Tree, nix: str) -> None:
    report = check(tree.with_file(HOST, "{ systemd.services.x.scirpt = 1; }").files, tree.nodes)
    assert "does not exist" in details(report, "evaluation")
    assert "nix/hosts/node2.nix" in details(report, "evaluation")
    assert outcomes(report)["node1", "consistency"] is Outcome.OK
    assert outcomes(report)[CLUSTER, "consistency"] is Outcome.NOT_CHECKED


def test_nodes_are_compared_only_when_all_are_there(tree: Tree, nix: str) -> None:
    report = check(tree.files, ["node2"])
    assert outcomes(report)[CLUSTER, "consistency"] is Outcome.NOT_CHECKED
    assert "node1" in details(report, "consistency", CLUSTER)
    assert report.failed == ()


def test_syntax_errors_are_reported_for_every_file(tree: Tree, nix: str) -> None:
    broken = tree.with_file(HOST, "{ a = 1 }").with_file("nix/hosts/node1.nix", "{ b = ; }")
    report = check(broken.files, tree.nodes)
    text = details(report, "syntax", CLUSTER)
    assert "nix/hosts/node1.nix: " in text
    assert "nix/hosts/node2.nix: " in text
    assert report.descriptions == {}


def test_an_overlap_between_nodes_is_found(tree: Tree, nix: str) -> None:
    own = '{ systemd.network.networks."10-brkube".addresses = [ { Address = "10.88.1.2/24"; } ]; }'
    report = check(tree.with_file(HOST, own).files, tree.nodes)
    assert "networks overlap" in details(report, "consistency", CLUSTER)


def test_what_the_evaluator_does_not_know_is_not_called_checked(tree: Tree, nix: str) -> None:
    report = check(tree.with_file(HOST, '{ boot.loader.grub.device = "/dev/sda"; }').files, tree.nodes)
    assert outcomes(report)["node2", "own options"] is Outcome.NOT_CHECKED
    assert "boot.loader.grub.device" in details(report, "own options")
    assert report.failed == ()


def test_without_nix_nothing_is_called_checked(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "find", lambda *_: None)
    report = check(tree.files, tree.nodes)
    assert {finding.outcome for finding in report.findings} == {Outcome.NOT_CHECKED}
    assert all("nix-instantiate" in finding.details[0] for finding in report.findings)


def test_a_missing_tool_is_named(tree: Tree, nix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = process.find
    monkeypatch.setattr(process, "find", lambda name, *more: found(name, *more) if name == "nix-instantiate" else None)
    report = check(tree.files, tree.nodes)
    for name in ("units", "firewall", "network files", "scripts"):
        assert outcomes(report)["node1", name] is Outcome.NOT_CHECKED
        assert "is not installed" in details(report, name, "node1")
    assert report.failed == ()


def test_nothing_is_left_behind(tree: Tree, nix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    check(tree.files, tree.nodes)
    assert list(tmp_path.iterdir()) == []


def test_the_rule_set_loads_again_and_again_beside_others(tree: Tree, nix: str, needs: Needs, tmp_path: Path) -> None:
    needs("integration", process.find("nft") and os.geteuid() == 0, "nft and root")
    rules = tmp_path / "rules.nft"
    rules.write_text(check(tree.files, ("node1", "node2")).descriptions["node1"]["nftables"])
    script = (
        'nft add table ip kube-proxy && nft add table ip6 nat && nft -f "$1" && nft list ruleset >"$2" && '
        'nft -f "$1" && nft list ruleset | diff - "$2" && nft list tables'
    )
    result = process.run(["unshare", "--net", "sh", "-ec", script, "sh", rules, tmp_path / "first"])
    assert result.ok, result.stdout + result.stderr
    assert set(result.stdout.splitlines()) == {
        "table ip kube-proxy",
        "table ip6 nat",
        "table inet nixos-fw",
        "table ip kube-nat",
        "table ip6 kube-nat",
    }
