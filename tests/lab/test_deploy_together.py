"""Verifies that a change of the peers is detected, and deployed to all nodes in lockstep or to none."""

import json
import re
import shutil
from collections.abc import Iterator

import pytest

from lab.places import Places
from lab.workspace import node_lines
from tests.lab.conftest import made
from tests.lab.operating import Operator, await_

NODES = ("node1", "node2", "node3")
FAILING = 'systemd.services.bad = { wantedBy = [ "multi-user.target" ]; serviceConfig.ExecStart = "/bin/false"; };'


@pytest.fixture(scope="module")
def three(places: Places) -> Iterator[Operator]:
    """Three machines, of which the inventory knows two, that were deployed to."""
    with made(places, "together", 3) as up:
        operator = Operator(up.lab, up.workspace)
        file = operator.workspace.inventory_file
        whole = file.read_text()
        file.write_text(whole.replace("\n".join(third(operator)), ""))
        for words in (("keys.scan", "--yes"), ("keys.generate",), ("nix.render",), ("deploy",)):
            operator.done(*words)
        file.write_text(whole)
        yield operator


def third(operator: Operator) -> list[str]:
    record = operator.lab.record
    assert record
    return node_lines(record.number, 3)


def faults(operator: Operator) -> list[str]:
    """What `inv net.check` finds."""
    found = json.loads(operator.inv("net.check", "--json").stdout)
    return [f"{each['subject']} {each['check']}: {each['detail']}" for each in found if each["result"] != "ok"]


def test_a_new_machine_is_made_known_to_all_at_once(three: Operator) -> None:
    for words in (("keys.scan", "--node", "node3", "--yes"), ("keys.generate",), ("nix.render",)):
        three.done(*words)
    plan = json.loads(three.done("deploy", "--dry-run", "--json"))
    assert plan["lockstep"] and plan["stages"] == [["node1", "node2", "node3"]]
    assert set(three.outcomes().values()) == {"deployed"}
    assert faults(three) == []
    assert not json.loads(three.done("deploy", "--dry-run", "--json"))["lockstep"]


def test_new_keys_are_taken_up_by_all_at_one_moment(three: Operator) -> None:
    log = three.workspace.state_dir / "log"
    before, logged = three.say("node1", "wg", "show", "wgkube", "public-key"), len(log.read_text())
    devices = {node: three.say(node, "cat", "/sys/class/net/wgkube/ifindex") for node in NODES}
    three.done("keys.rotate-wireguard", "--yes")
    assert set(three.outcomes().values()) == {"deployed"}
    assert three.say("node1", "wg", "show", "wgkube", "public-key") != before
    assert faults(three) == []
    # The device stays, and each machine has waited until it was told when to change its keys.
    assert {node: three.say(node, "cat", "/sys/class/net/wgkube/ifindex") for node in NODES} == devices
    released = re.findall(r"(node\d)\b.*\brelease: exit status 0", log.read_text()[logged:])
    assert sorted(released) == [*NODES]
    assert [three.say(node, "sh", "-c", "ls /run/smallkube/*/hold 2>/dev/null || true") for node in NODES] == [""] * 3


def test_one_failed_node_aborts_the_lockstep_deploy(three: Operator) -> None:
    runs = {node: three.runs(node) for node in NODES}
    kept = three.root / "kept"
    shutil.copytree(three.workspace.keys_dir, kept)
    three.done("keys.rotate-wireguard", "--yes")
    with three.extra("node3", FAILING):
        reports = three.deploy(status=1)
    assert {report["outcome"] for report in reports.values()} == {"rolled back"}
    assert "bad.service" in reports["node3"]["reason"]
    assert "lockstep deploy aborted: node3 failed" in reports["node1"]["reason"]
    assert {node: three.runs(node) for node in runs} == runs
    shutil.rmtree(three.workspace.keys_dir)
    kept.rename(three.workspace.keys_dir)
    assert faults(three) == []


def test_each_restart_of_networkd_begins_the_sessions_anew(three: Operator) -> None:
    def started() -> str:
        """Identifies the run of the service that is under way, which takes some five seconds."""
        shown = three.say("node1", "systemctl", "show", "--property=SubState,InvocationID", "wgkube-handshakes")
        state = dict(line.split("=", 1) for line in shown.splitlines())
        return state["InvocationID"] if state["SubState"] == "start" else ""

    three.say("node1", "systemctl", "restart", "systemd-networkd")
    before = await_("begun", started)
    three.say("node1", "systemctl", "restart", "systemd-networkd")
    await_("begun anew", lambda: started() not in ("", before))
    assert "Failed" not in three.say("node1", "journalctl", "--output=cat", "--unit=wgkube-handshakes")
    assert faults(three) == []


def test_what_is_left_out_is_named_and_can_be_taken_in(three: Operator) -> None:
    three.done("keys.rotate-wireguard", "--node", "node3", "--yes")
    plan = json.loads(three.done("deploy", "--node", "node3", "--dry-run", "--json"))
    assert plan["left_out"] == ["node1", "node2"]
    reports = three.deploy("--node", "node3", "--with-peers")
    assert {node: report["outcome"] for node, report in reports.items()} == dict.fromkeys(reports, "deployed")
    assert len(reports) == 3
    assert faults(three) == []
