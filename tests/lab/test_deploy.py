"""Proves what each goal of a deploy does to a machine, and that a deploy of nothing new changes and sends nothing."""

import json

import pytest

from tests.lab.operating import Operator

NODES = ("node1", "node2")
HISTORY = ("deploy.history", "--json")


@pytest.fixture(autouse=True)
def back_to_the_first_system(deployed: Operator) -> None:
    """Whatever the test before deployed, this one begins with both machines as the workspace has them."""
    deployed.deploy()


def test_the_machines_run_and_boot_what_was_deployed(deployed: Operator) -> None:
    for report in deployed.deploy().values():
        node = report["node"]
        assert deployed.runs(node) == deployed.boots(node) == report["system"]
        assert f"nixos-system-{node}" in report["system"]
        assert deployed.leftovers(node) == ""


def test_a_second_deploy_changes_and_sends_nothing(deployed: Operator) -> None:
    pushed = [deployed.say(node, "ls", "-la", "--time-style=full-iso", "/var/lib/smallkube/bundles") for node in NODES]
    reports = deployed.deploy()
    assert {report["outcome"] for report in reports.values()} == {"unchanged"}
    assert not any(report["pushed"] for report in reports.values())
    again = [deployed.say(node, "ls", "-la", "--time-style=full-iso", "/var/lib/smallkube/bundles") for node in NODES]
    assert again == pushed


def test_dry_run_touches_no_machine(deployed: Operator) -> None:
    machine = deployed.lab.machine("node2")
    machine.stop()
    try:
        plan = json.loads(deployed.done("deploy", "--dry-run", "--json"))
    finally:
        machine.start(deployed.lab.start_layers())
    assert plan["stages"] == [["node1"], ["node2"]]
    assert plan["steps"][0] == "connect"


def test_build_leaves_the_running_system_alone(deployed: Operator) -> None:
    before = deployed.runs("node2"), deployed.boots("node2")
    with deployed.marked("node2", "built"):
        report = deployed.deploy("--goal", "build", "--node", "node2")["node2"]
    assert report["outcome"] == "built"
    assert report["system"] not in before
    assert deployed.say("node2", "cat", f"{report['system']}/etc/mark") == "built"
    assert (deployed.runs("node2"), deployed.boots("node2")) == before


def test_dry_activate_says_what_would_happen(deployed: Operator) -> None:
    before = deployed.runs("node1"), deployed.boots("node1"), etcd(deployed)
    with deployed.extra("node1", 'systemd.services.etcd.environment.MARK = "1";'):
        report = deployed.deploy("--goal", "dry-activate", "--node", "node1")["node1"]
    assert report["outcome"] == "checked"
    assert "would start the following units: etcd.service" in report["log"]
    assert (deployed.runs("node1"), deployed.boots("node1"), etcd(deployed)) == before


def etcd(deployed: Operator) -> str:
    return deployed.say("node1", "systemctl", "show", "--property=MainPID", "etcd.service")


def test_test_holds_until_the_machine_restarts(deployed: Operator) -> None:
    before = deployed.boots("node2")
    with deployed.marked("node2", "tested"):
        report = deployed.deploy("--goal", "test", "--node", "node2")["node2"]
    assert report["outcome"] == "tested"
    assert deployed.mark("node2") == "tested"
    assert (deployed.runs("node2"), deployed.boots("node2")) == (report["system"], before)
    deployed.restart("node2")
    assert deployed.mark("node2") == ""
    assert deployed.runs("node2") == before


def test_switch_after_test_makes_it_boot(deployed: Operator) -> None:
    with deployed.marked("node2", "kept"):
        deployed.deploy("--goal", "test", "--node", "node2")
        assert deployed.outcomes("--node", "node2") == {"node2": "deployed"}
    deployed.restart("node2")
    assert deployed.mark("node2") == "kept"


def test_boot_takes_effect_when_the_machine_restarts(deployed: Operator) -> None:
    before = deployed.runs("node2")
    with deployed.marked("node2", "booted"):
        report = deployed.deploy("--goal", "boot", "--node", "node2")["node2"]
    assert report["outcome"] == "boots next"
    assert deployed.mark("node2") == ""
    assert (deployed.runs("node2"), deployed.boots("node2")) == (before, report["system"])
    deployed.restart("node2")
    assert deployed.mark("node2") == "booted"


def test_boot_of_the_running_system_replaces_another_boot(deployed: Operator) -> None:
    running = deployed.runs("node2")
    with deployed.marked("node2", "unwanted"):
        deployed.deploy("--goal", "boot", "--node", "node2")
    assert deployed.outcomes("--goal", "boot", "--node", "node2") == {"node2": "boots next"}
    assert deployed.boots("node2") == running


def test_each_machine_keeps_its_history(deployed: Operator) -> None:
    with deployed.marked("node2", "remembered"):
        report = deployed.deploy("--node", "node2")["node2"]
    entry = json.loads(deployed.done(*HISTORY))["node2"][-1]
    assert (entry["outcome"], entry["goal"], entry["system"]) == ("deployed", "switch", report["system"])
    assert entry["generation"] == report["generation"]
    assert entry["operator"].startswith("root@")


def test_one_who_becomes_root_by_sudo_can_deploy(deployed: Operator) -> None:
    inventory = deployed.workspace.inventory_file
    before = inventory.read_text()
    inventory.write_text(before.replace("port: 2222}", "port: 2222, user: admin, become: sudo}"))
    try:
        with deployed.marked("node2", "sudo"):
            assert set(deployed.outcomes().values()) == {"deployed", "unchanged"}
        assert deployed.mark("node2") == "sudo"
        refused = deployed.workspace.inventory_file
        refused.write_text(refused.read_text().replace("become: sudo", "become: none"))
        report = deployed.deploy(status=1)["node1"]
        assert "ermission denied" in report["reason"]
    finally:
        inventory.write_text(before)
