"""Proves that the cluster comes back by itself: after every service was killed or restarted in turn, after each machine
lost its power; and that what runs on a worker goes on while the primary is down.
"""

import json
from collections.abc import Iterator

import pytest

from tests.cluster.conftest import UNITS, LabCluster, is_ready, pod

ON_WORKERS = ("coredns", "kube-proxy", "crio", "kubelet")
LONG_RUNNING = [
    *(("node1", unit) for unit in UNITS if unit != "kube-activation"),
    *(("node2", unit) for unit in ON_WORKERS),
]
SERVE = ("sh", "-c", 'mkdir /www; hostname >/www/index.html; exec httpd -f -p "[::]:8080" -h /www')


@pytest.fixture(scope="module")
def tried(cluster: LabCluster) -> Iterator[LabCluster]:
    """The cluster, with a pod that serves its name on node2."""
    cluster.eventually("account", lambda: not cluster.ask("get", "serviceaccount", "default").returncode)
    cluster.apply(pod("serve", "node2", *SERVE, restartPolicy="Always"))
    cluster.eventually("pod Ready", lambda: serving(cluster))
    yield cluster
    cluster.kubectl("delete", "pod", "serve", "--timeout=60s", seconds=70)


def serving(cluster: LabCluster) -> bool:
    """Whether the pod on node2 is Ready and answers node1."""
    answer = cluster.ask("get", "pod", "serve", "--output=json")
    if answer.returncode:
        return False
    item = json.loads(answer.stdout)
    return is_ready(item) and answers(cluster, "node1", item["status"]["podIP"])


def answers(cluster: LabCluster, node: str, address: str) -> bool:
    asked = cluster.machine(node).execute(["curl", "--silent", "--max-time", "3", f"http://{address}:8080/"])
    return asked.stdout.strip() == "serve"


def well(cluster: LabCluster) -> bool:
    """Whether every unit is active on every machine, every node Ready, and the pod answers."""
    for machine in cluster.operator.lab.machines:
        units = UNITS if machine.name == "node1" else ON_WORKERS
        if machine.execute(["systemctl", "is-active", *(f"{unit}.service" for unit in units)]).returncode:
            return False
        if machine.check("systemctl", "list-units", "--failed", "--no-legend"):
            return False
    return set(cluster.ready().values()) == {True} and serving(cluster)


def main_process(cluster: LabCluster, node: str, unit: str) -> str:
    return cluster.operator.say(node, "systemctl", "show", "--property=MainPID", "--value", f"{unit}.service")


@pytest.mark.parametrize(("node", "unit"), LONG_RUNNING)
def test_a_killed_service_restarts_and_stops_no_other(tried: LabCluster, node: str, unit: str) -> None:
    before = main_process(tried, node, unit)
    tried.operator.say(node, "kill", "-KILL", before)
    tried.eventually(f"{unit} anew", lambda: main_process(tried, node, unit) not in ("0", before))
    tried.eventually("all well", lambda: well(tried), seconds=120)


def test_a_stopped_api_server_stays_stopped(tried: LabCluster) -> None:
    def active_state(unit: str) -> str:
        return tried.operator.say("node1", "systemctl", "show", "--property=ActiveState", "--value", unit)

    tried.operator.say("node1", "systemctl", "stop", "kube-apiserver")
    try:
        # As its timer does, every five minutes.
        tried.operator.say("node1", "systemctl", "start", "--no-block", "kube-node-roles")
        tried.eventually("it runs", lambda: active_state("kube-node-roles") == "activating")
        assert active_state("kube-apiserver") == "inactive"
    finally:
        tried.operator.say("node1", "systemctl", "start", "kube-apiserver")
    tried.eventually("all well", lambda: well(tried), seconds=120)


def test_every_service_can_be_restarted_one_by_one(tried: LabCluster) -> None:
    for node, unit in LONG_RUNNING:
        tried.operator.say(node, "systemctl", "restart", f"{unit}.service")
    tried.eventually("all well", lambda: well(tried), seconds=120)


def test_a_worker_serves_while_the_primary_is_down(tried: LabCluster) -> None:
    address = tried.get("pod", "serve")["status"]["podIP"]
    tried.machine("node1").kill()
    try:
        assert answers(tried, "node2", address)
        states = tried.machine("node2").execute(["systemctl", "is-active", *ON_WORKERS]).stdout.split()
        assert states == ["active"] * len(ON_WORKERS)
    finally:
        tried.machine("node1").start(tried.operator.lab.start_layers())
    tried.eventually("all well", lambda: well(tried), seconds=150)


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_a_machine_that_lost_its_power_is_ready_again(tried: LabCluster, node: str) -> None:
    tried.operator.restart(node)
    tried.eventually("all well", lambda: well(tried), seconds=150)
    assert tried.machine(node).report()["missing"] == {}
