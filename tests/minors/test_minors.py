"""Crosses from the oldest minor of Kubernetes to the newest that the lab builds, and one back, on a cluster in use.

Each step is `inv cluster.upgrade` on three machines, while the primary sends requests to the API server and to a
Service with a replica on each worker. Each minor passes a slice of the conformance tests, those of the lab's own minor.
What was found is written to docs/compatibility.md. A single machine goes all the way in one command.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread

import pytest

from lab import kubernetes, workspace
from lab.cluster import Lab, check_prerequisites
from lab.conformance import PROGRAMS
from lab.conformance_run import SLICE, Cluster, publish
from lab.containers import BUSYBOX, bring
from lab.machine import Machine
from lab.places import Places
from smallkube.cli.bar import Bar
from smallkube.cli.conformance import run_suite
from smallkube.cli.context import Current
from smallkube.conformance.outcome import PASSED
from smallkube.core import ui
from smallkube.core.errors import UsageError
from smallkube.core.workspace import REPOSITORY, Workspace
from smallkube.inventory.releases import MINORS
from smallkube.kube import versions
from tests.cluster.conftest import LabCluster, deploy
from tests.cluster.load import by_kubeconfig
from tests.conftest import require
from tests.lab.operating import Operator

DOCUMENT = REPOSITORY / "docs/compatibility.md"
MARK = "<!-- the last complete result, written by make test-minors -->\n"
NAMESPACE = "test-minors"
UPGRADE = ("cluster.upgrade", "--yes", "--image", BUSYBOX)
REPLICAS = 2
PAUSE_SECONDS = 0.2
HOUR = 3600.0


@dataclass
class Requests:
    """One after another from ``machine``; ``answers`` are pairs of the time of an answer and whether it was good."""

    machine: Machine
    script: str
    answers: list[tuple[float, bool]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        stop = Event()

        def ask() -> None:
            while not stop.wait(PAUSE_SECONDS):
                done = self.machine.execute(["/bin/sh", "-c", self.script], seconds=30)
                self.answers.append((time.monotonic(), done.returncode == 0))

        thread = Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def since(self, moment: float) -> list[bool]:
        return [good for at, good in self.answers if at >= moment]

    def longest_gap(self) -> float:
        """Seconds between two good answers with failed ones in between, the most; 0 when none failed."""
        good = [index for index, (_, fine) in enumerate(self.answers) if fine]
        return max((self.answers[b][0] - self.answers[a][0] for a, b in pairwise(good) if b > a + 1), default=0.0)


@dataclass(frozen=True)
class Crossing:
    """One step: what it was, what was asked meanwhile, and how much of the slice passed after it."""

    step: str
    api_gap: float
    asked: int
    lost: int
    slice: str
    minutes: float

    @property
    def row(self) -> str:
        cells = (self.step, f"{self.api_gap:.1f}", f"{self.asked}, {self.lost} lost", self.slice, f"{self.minutes:.1f}")
        return f"| {' | '.join(cells)} |"


@pytest.fixture(scope="module")
def built() -> tuple[Path, Path]:
    """The programs of Kubernetes, of all minors, and of the conformance tests; built unless they are."""
    try:
        check_prerequisites()
    except UsageError as error:
        require("cluster", False, str(error))
    cache = Places.find(os.environ).cache
    with Bar() as bar:
        own, tests, *_ = [
            each.ensure(cache, bar) for each in (kubernetes.PROGRAMS, PROGRAMS, *kubernetes.FURTHER.values())
        ]
    return own, tests


@contextmanager
def oldest(built: tuple[Path, Path], folder: Path, nodes: int) -> Iterator[LabCluster]:
    """A cluster of the oldest minor."""
    lab = Lab(Places(Places.find(os.environ).cache, folder), f"minors-{nodes}-{os.getpid()}")
    try:
        place = lab.up(nodes, None, lambda _text: None, lambda _node, _text: None, built[0], MINORS[0])
        made = LabCluster(Operator(lab, place, seconds=HOUR))
        deploy(made)
        yield made
    finally:
        lab.down()


def set_minor(cluster: LabCluster, minor: str) -> None:
    """What an operator writes into inventory.yaml, and the lab's stand-in for `inv nix.render --update-lock`."""
    space = cluster.operator.workspace
    kept = re.sub(r"^  (kubernetes|nixos|kubernetes_nixpkgs): .*\n", "", space.inventory_file.read_text(), flags=re.M)
    named = "".join(f"{line}\n" for line in workspace.versions(minor))
    space.inventory_file.write_text(kept.replace("cluster:\n", f"cluster:\n{named}", 1))
    workspace.pin(space.root, cluster.machine("node1"))
    cluster.operator.done("nix.render")


def serve(cluster: LabCluster) -> str:
    """A web server on each worker behind a Service, whose address is returned.

    A replica that ends answers until nobody is sent to it any more.
    """
    labels = {"app": "web"}
    container = {
        "name": "main",
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", "mkdir /www; echo fine >/www/index.html; exec httpd -f -p '[::]:8080' -h /www"],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "8"]}}},
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }
    pods = {
        "metadata": {"labels": labels},
        "spec": {"containers": [container], "topologySpreadConstraints": [spread]},
    }
    meta = {"name": "web", "namespace": NAMESPACE}
    selector = {"matchLabels": labels}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {"replicas": REPLICAS, "selector": selector, "template": pods},
    }
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": meta,
        "spec": {"maxUnavailable": 1, "selector": selector},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {"selector": labels, "ports": [{"port": 8080}]},
    }
    cluster.apply(deployment, budget, service)
    cluster.kubectl("-n", NAMESPACE, "rollout", "status", "deployment", "web", "--timeout=90s", seconds=100)
    return str(cluster.get("-n", NAMESPACE, "service", "web")["spec"]["clusterIP"])


def runs(cluster: LabCluster) -> set[str]:
    """The minors of the API server and of all kubelets."""
    server = json.loads(cluster.kubectl("get", "--raw", "/version"))["gitVersion"]
    kubelets = [item["status"]["nodeInfo"]["kubeletVersion"] for item in cluster.get("nodes")["items"]]
    return {f"1.{versions.minor(version)}" for version in (server, *kubelets)}


def conformance(cluster: LabCluster, built: tuple[Path, Path]) -> str:
    """How much of the slice passed: all of it, or the test ends here."""
    operator = cluster.operator
    operator.done("cluster.kubeconfig", "--via", "tunnel")
    suite = Cluster(operator.lab, Workspace(operator.root), built[1], built[0], 2).suite()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMALLKUBE_WORKSPACE", str(operator.root))
        report = run_suite(Current(), suite, suite.tests(), SLICE, False)
    assert len(report.of(PASSED)) == len(report.wanted), report.summary
    return report.summary


def cross(cluster: LabCluster, built: tuple[Path, Path], to: str, address: str, *steps: Sequence[str]) -> Crossing:
    """Do ``steps`` under load; then everything is of the minor ``to``, and the slice passes."""
    node, ask_api = by_kubeconfig("node1", "/run/kubeconfig-root")
    primary = cluster.machine(node)
    api = Requests(primary, ask_api)
    service = Requests(primary, f"curl --silent --fail --max-time 5 --output /dev/null http://{address}:8080/")
    began, [before] = time.monotonic(), runs(cluster)
    with api.running(), service.running():
        for words in steps:
            done = cluster.operator.inv(*words)
            assert done.returncode == 0, f"{done.stderr}{cluster.state()}"
        cluster.eventually("the API server answers", lambda: api.answers[-1][1])
    minutes = (time.monotonic() - began) / 60
    assert runs(cluster) == {to}
    cluster.eventually("every node Ready", lambda: list(cluster.ready().values()) == [True] * 3)
    cluster.operator.done("cluster.smoke")
    asked = service.since(began)
    lost = asked.count(False)
    found = Crossing(f"{before} → {to}", api.longest_gap(), len(asked), lost, conformance(cluster, built), minutes)
    ui.message(found.row)
    assert not lost and len(asked) > 100, found
    return found


def test_a_machine_goes_all_the_way_in_one_command(built: tuple[Path, Path], tmp_path: Path) -> None:
    with oldest(built, tmp_path, 1) as cluster:
        set_minor(cluster, MINORS[-1])
        for minor in MINORS[1:-1]:
            # The stand-in for what the command locks itself where the inputs are real ones.
            workspace.pin(cluster.operator.root, cluster.machine("node1"), minor)
        began = time.monotonic()
        done = cluster.operator.inv(*UPGRADE)
        assert done.returncode == 0, f"{done.stderr}{cluster.state()}"
        ui.message(f"{MINORS[0]} to {MINORS[-1]} in {(time.monotonic() - began) / 60:.1f} minutes")
        assert runs(cluster) == {MINORS[-1]}
        cluster.operator.done("cluster.smoke")
        assert not cluster.operator.workspace.between_dir.exists() or not [
            *cluster.operator.workspace.between_dir.iterdir()
        ]


def test_every_minor_is_crossed_and_the_last_one_back(built: tuple[Path, Path], tmp_path: Path) -> None:
    with oldest(built, tmp_path, 3) as cluster, cluster.namespace(NAMESPACE):
        for machine in cluster.operator.lab.machines:
            bring(machine, built[1] / PROGRAMS.prefix / "images")
        slice_of_first = conformance(cluster, built)
        address = serve(cluster)
        crossings = []
        for minor in MINORS[1:]:
            set_minor(cluster, minor)
            crossings.append(cross(cluster, built, minor, address, UPGRADE))
        back = [("deploy.rollback", "--yes", "--node", node) for node in reversed(cluster.nodes)]
        crossings.append(cross(cluster, built, MINORS[-2], address, *back))
        set_minor(cluster, MINORS[-2])
        cluster.operator.deploy()
    lines = [
        f"On {datetime.now(UTC):%Y-%m-%d}, three machines of the lab. Before the first step: {slice_of_first}.",
        "",
        "| step | longest gap of the API server, s | requests to the Service | slice of conformance | minutes |",
        "| --- | --- | --- | --- | --- |",
        *(each.row for each in crossings),
    ]
    publish(MARK, "\n".join(lines) + "\n", DOCUMENT)
