"""Proves that a deploy asks whether what a machine is for still works, and goes back when it does not."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.operating import Operator


@pytest.fixture(autouse=True)
def back_to_the_first_system(deployed: Operator) -> Iterator[None]:
    """Whatever a test deployed, the next one begins with both machines as the workspace has them."""
    yield
    deployed.deploy()


@contextmanager
def own_check(operator: Operator, check: str) -> Iterator[None]:
    """``check`` (YAML of a list of words) among node2's own checks."""
    file = operator.workspace.inventory_file
    before = file.read_text()
    file.write_text(before.rstrip("\n") + f"\n    checks: [{check}]\n")
    try:
        yield
    finally:
        file.write_text(before)


def test_an_etcd_that_does_not_start_rolls_back_the_primary(deployed: Operator) -> None:
    before = deployed.runs("node1")
    broken = 'systemd.services.etcd.environment.ETCD_LOG_LEVEL = "nonsense";'
    with deployed.extra("node1", broken):
        reports = deployed.deploy(status=1)
    assert reports["node1"]["outcome"] == "rolled back"
    assert "etcd" in reports["node1"]["reason"]
    assert reports["node2"]["outcome"] == "not run"
    assert deployed.runs("node1") == before
    assert "is healthy" in deployed.say(
        "node1", "sh", "-c", "etcdctl --endpoints unix:///run/etcd/grpc endpoint health 2>&1"
    )


def test_a_broken_tunnel_rolls_back_the_worker(deployed: Operator) -> None:
    before = deployed.runs("node2")
    with deployed.extra("node2", 'systemd.network.networks."11-wgkube".linkConfig.ActivationPolicy = "always-down";'):
        report = deployed.deploy("--node", "node2", status=1)["node2"]
    assert report["outcome"] == "rolled back"
    assert "tunnel to the primary" in report["reason"]
    assert deployed.runs("node2") == before


def test_a_persons_own_check_counts(deployed: Operator) -> None:
    before = deployed.runs("node2")
    with own_check(deployed, "[test, -e, /nowhere]"), deployed.marked("node2", "checked"):
        report = deployed.deploy("--node", "node2", status=1)["node2"]
        assert report["outcome"] == "rolled back"
        assert "test -e /nowhere" in report["reason"]
        assert deployed.runs("node2") == before
    with own_check(deployed, "[test, -e, /etc/hostname]"), deployed.marked("node2", "checked"):
        assert deployed.outcomes("--node", "node2") == {"node2": "deployed"}


def test_what_cannot_be_asked_is_named(deployed: Operator) -> None:
    with deployed.marked("node1", "named"):
        report = deployed.deploy("--node", "node1")["node1"]
    assert any("API server" in words for words in report["unconfirmed"])
    assert any("kubelet" in words for words in report["unconfirmed"])
    assert not any("etcd" in words for words in report["unconfirmed"])


def test_no_rollback_reports_the_failure_and_keeps_it(deployed: Operator) -> None:
    before = deployed.runs("node2")
    with own_check(deployed, "['false']"), deployed.marked("node2", "stays"):
        report = deployed.deploy("--node", "node2", "--no-rollback", status=1)["node2"]
    assert report["outcome"] == "failed"
    assert report["reason"].startswith("it runs the new system, automatic rollback was disabled")
    assert deployed.runs("node2") != before
    assert deployed.boots("node2") == before


def test_rollback_to_an_earlier_generation(deployed: Operator) -> None:
    before = deployed.runs("node2")
    with deployed.marked("node2", "forward"):
        deployed.deploy("--node", "node2")
    assert deployed.runs("node2") != before
    deployed.done("deploy.rollback", "--node", "node2", "--yes")
    assert deployed.runs("node2") == deployed.boots("node2") == before
    refused = deployed.inv("deploy.rollback", "--node", "node2", "--generation", "999", "--yes")
    assert refused.returncode == 1
    assert "there is no generation 999" in refused.stdout


def test_the_preview_names_files_and_units(deployed: Operator) -> None:
    with deployed.extra("node1", 'systemd.services.etcd.environment.MARK = "1";'):
        found = {report["node"]: report for report in json.loads(deployed.done("deploy.plan", "--json"))}
    assert found["node1"]["files"]["changed"] == ["nix/hosts/node1.nix"]
    assert "etcd.service" in found["node1"]["log"]
    assert found["node2"]["outcome"] == "unchanged"
