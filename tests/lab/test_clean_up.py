"""Proves `inv nodes.gc`, `nodes.remove` and `nodes.reset` on machines with real Nix and systemd."""

import json
from collections.abc import Iterator

import pytest

from lab.places import Places
from tests.lab.conftest import made
from tests.lab.operating import Operator, await_

NODES = ("node1", "node2")
GC = ("nodes.gc", "--json", "--keep", "1")
LINK = "/nix/var/nix/profiles/system-{}-link"


@pytest.fixture(scope="module")
def own(places: Places) -> Iterator[Operator]:
    """Two machines that run what the workspace holds, and are spoilt by these tests."""
    with made(places, "clean", 2) as up:
        operator = Operator(up.lab, up.workspace)
        for words in (("keys.scan", "--yes"), ("keys.generate",), ("nix.render",), ("deploy",)):
            operator.done(*words)
        yield operator


def generations(operator: Operator, node: str) -> list[str]:
    found = operator.say(node, "sh", "-c", f"ls -d {LINK.format('*')}")
    return sorted(line.split("-")[-2] for line in found.split())


def test_old_generations_go_and_a_rollback_works(own: Operator) -> None:
    systems = [own.runs("node2")]
    for mark in ("a", "b", "c"):
        with own.marked("node2", mark):
            own.deploy("--node", "node2")
            systems.append(own.runs("node2"))
    before, booted = generations(own, "node2"), own.say("node2", "readlink", "-f", "/run/booted-system")
    *_, previous, current = before
    (first,) = (each for each in before if own.say("node2", "readlink", "-f", LINK.format(each)) == booted)
    planned = json.loads(own.done(*GC, "--dry-run"))
    old = [each for each in before if each not in (first, previous, current)]
    assert {row["node"]: row["generations"] for row in planned} == {"node1": [], "node2": old}
    assert generations(own, "node2") == before
    own.done(*GC, "--yes")
    assert generations(own, "node2") == [first, previous, current]
    gone = [own.lab.machine("node2").execute(["test", "-e", system]).returncode for system in systems]
    assert gone == [1, 1, 0, 0]
    own.done("deploy.rollback", "--node", "node2", "--yes")
    assert own.runs("node2") == systems[2]
    own.done("deploy")
    assert own.runs("node2") == systems[0]


def test_an_unconfirmed_deploy_keeps_a_node_as_it_is(own: Operator) -> None:
    timer = ("--unit=smallkube-rollback-test", "--on-active=3600", "true")
    own.say("node2", "systemd-run", "--quiet", *timer)
    try:
        done = own.inv("nodes.gc", "--yes")
        assert (done.returncode, "a deploy is not confirmed: smallkube-rollback-test" in done.stdout) == (1, True)
    finally:
        own.say("node2", "systemctl", "stop", "smallkube-rollback-test.timer")


def test_a_removed_machine_is_reset_and_can_be_reached(own: Operator) -> None:
    ssh = own.node("node2").ssh
    assert "is a node of inventory.yaml" in own.inv("nodes.reset", "--node", "node2", "--yes").stderr
    assert json.loads(own.done("nodes.remove", "node2", "--yes", "--json"))["node_object"] == "unknown"
    for words in (("keys.generate",), ("nix.render",), ("deploy",)):
        own.done(*words)
    reset = ("nodes.reset", "--node", "node2", "--ssh-host", ssh.host, "--port", str(ssh.port), "--yes", "--json")
    done = json.loads(own.done(*reset))
    assert {"/var/lib/smallkube", "link wgkube", "link brkube", "table inet kube-guard"} <= {*done["removed"]}
    assert done["left"] == []
    machine = own.lab.machine("node2")
    assert "kube" not in machine.check("nft", "list", "tables")
    assert machine.execute(["ls", "/run/agenix/wgkube.key"]).returncode != 0
    device = ["systemctl", "is-active", "lab-wireguard-wgkube.service"]
    await_("its end, as of the kernel's device", lambda: machine.execute(device).stdout == "inactive\n")
    again = json.loads(own.done(*reset))
    assert (again["stopped"], again["removed"], again["left"]) == ([], [], [])
