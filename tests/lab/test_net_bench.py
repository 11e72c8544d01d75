"""Proves that net.bench measures between machines, and that no unit and no rule of it is left."""

import json

from tests.lab.operating import Operator


def left(operator: Operator, node: str) -> str:
    rules = "nft list chain inet nixos-fw input-allow | grep smallkube-bench; systemctl is-active smallkube-bench; true"
    return operator.say(node, "sh", "-c", rules)


def test_machines_are_measured_and_closed_again(deployed: Operator) -> None:
    rows = json.loads(deployed.done("net.bench", "--seconds", "3", "--json"))
    assert {(row["sender"], row["receiver"]) for row in rows} == {("node1", "node2"), ("node2", "node1")}
    for row in rows:
        for path in ("tunnel", "direct"):
            assert row[path]["mbits"] > 1 and row[path]["milliseconds"] > 0
    assert {node: left(deployed, node) for node in ("node1", "node2")} == dict.fromkeys(("node1", "node2"), "inactive")


def test_a_second_one_at_the_same_time_is_refused(deployed: Operator) -> None:
    words = ("systemd-run", "--quiet", "--collect", "--unit=smallkube-bench", "/bin/sleep", "60")
    deployed.say("node2", *words)
    try:
        done = deployed.inv("net.bench", "--seconds", "1")
        assert done.returncode == 1 and "another net.bench runs here" in done.stderr
    finally:
        deployed.say("node2", "systemctl", "stop", "smallkube-bench.service")
    assert left(deployed, "node1") == "inactive"
