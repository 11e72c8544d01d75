"""Clusters of real Kubernetes on machines of the lab: brought up by the operator's own commands, always taken down."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import kubernetes
from lab.cluster import Lab, check_prerequisites
from lab.containers import BUSYBOX
from lab.machine import Machine, Result
from lab.places import Places
from smallkube.core.errors import UsageError
from smallkube.core.workspace import REPOSITORY
from smallkube.kube.members import APPLY
from tests.conftest import require
from tests.lab.operating import Operator

KUBECONFIG = "KUBECONFIG=/run/kubeconfig-root"
UNITS = ("etcd", "kube-apiserver", "kube-activation", "kube-controller-manager", "kube-scheduler",
         "coredns", "kube-proxy", "crio", "kubelet")  # fmt: skip
EVERYWHERE = [{"operator": "Exists"}]
"""Tolerations of a pod that may run on the primary too."""


@dataclass(frozen=True)
class LabCluster:
    """A cluster that was deployed; what a test puts into it, it takes away again."""

    operator: Operator

    @property
    def nodes(self) -> tuple[str, ...]:
        """The machines' names by index; in Kubernetes each has the cluster's domain behind it."""
        return tuple(machine.name for machine in self.operator.lab.machines)

    def machine(self, node: str) -> Machine:
        return self.operator.lab.machine(node)

    def ask(self, *words: str, stdin: str = "", seconds: int = 60) -> Result:
        """kubectl on the primary, with root's kubeconfig; its failure is a result."""
        argv = ["env", KUBECONFIG, "timeout", str(seconds), "/run/current-system/sw/bin/kubectl", *words]
        return self.machine("node1").execute(argv, stdin=stdin, seconds=seconds + 10)

    def kubectl(self, *words: str, stdin: str = "", seconds: int = 60) -> str:
        """kubectl that must succeed; what it printed."""
        done = self.ask(*words, stdin=stdin, seconds=seconds)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}{self.state()}"
        return done.stdout

    def get(self, *words: str) -> dict[str, Any]:
        """``kubectl get``, parsed."""
        found: dict[str, Any] = json.loads(self.kubectl("get", "--output=json", *words))
        return found

    def apply(self, *objects: dict[str, Any]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl(*APPLY, stdin=json.dumps(listed))

    @contextmanager
    def namespace(self, name: str, *, wait: bool = True) -> Iterator[str]:
        """A namespace that is gone with all in it when the block has ended; without ``wait``, soon after."""
        self.kubectl("create", "namespace", name)
        try:
            # A pod is refused before its namespace's account is there.
            account = ("-n", name, "get", "serviceaccount", "default")
            self.eventually("default account", lambda: not self.ask(*account).returncode)
            yield name
        finally:
            self.kubectl("delete", "namespace", name, f"--wait={str(wait).lower()}", "--timeout=90s", seconds=100)

    def inside(self, namespace: str, pod: str, *command: str, seconds: int = 20) -> Result:
        """Run a command in a pod; its failure is a result."""
        return self.ask("-n", namespace, "exec", pod, "--", *command, seconds=seconds)

    def eventually(self, what: str, condition: Callable[[], Any], seconds: float = 180) -> Any:
        """The first true value of ``condition``; in vain, with the cluster's state.

        After several restarts of the API server its clients come back to it late: the pauses between their tries
        double, up to a minute. A pod that is reached through a Service waits for two of them, one after the other:
        the kubelet and kube-proxy.
        """
        began, pause = time.monotonic(), 0.1
        while not (value := condition()):
            waited = time.monotonic() - began
            assert waited < seconds, f"in vain: {what}{self.state()}"
            time.sleep(pause)
            # Each kubectl takes some tenths of a second of a core from what is waited for.
            pause = max(min(1.5 * pause, 1), waited / 20)
        return value

    def ready(self) -> dict[str, bool]:
        """Whether each node that the API knows is Ready."""
        answer = self.ask("get", "nodes", "--output=json")
        items = json.loads(answer.stdout)["items"] if answer.returncode == 0 else []
        return {item["metadata"]["name"]: is_ready(item) for item in items}

    def state(self) -> str:
        """All that may explain a failure, as text."""
        parts = []
        for words in (("describe", "nodes"), ("get", "pods,svc,endpointslices", "-A", "-o", "wide"), ("events", "-A")):
            answer = self.ask(*words, seconds=20)
            parts.append(f"--- kubectl {' '.join(words)}\n{answer.stdout}{answer.stderr}")
        for machine in self.operator.lab.machines:
            for unit in UNITS if machine.running else ():
                said = machine.execute(["journalctl", "--no-pager", "--lines=20", "--unit", unit])
                parts.append(f"--- {machine.name} {unit}\n{said.stdout}")
        return "\n" + "\n".join(parts)


def is_ready(item: dict[str, Any]) -> bool:
    """Whether a Node's or Pod's condition Ready is true."""
    conditions = item.get("status", {}).get("conditions", [])
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def killed_at(cluster: LabCluster, line: str, *command: str) -> None:
    """Run ``command`` and kill it when it says ``line``.

    Again when it fails before: a killed deploy leaves machines that first have to roll back, or to let go of its lock.
    """
    deadline = time.monotonic() + cluster.operator.seconds
    while not _killed(cluster.operator, line, *command):
        assert time.monotonic() < deadline, f"never said {line!r}"


def ended(cluster: LabCluster, *command: str) -> None:
    """Run ``command`` until it succeeds: what a killed deploy left on machines rolls back in its own time."""
    deadline, failures = time.monotonic() + cluster.operator.seconds, list[str]()
    while (done := cluster.operator.inv(*command)).returncode:
        failures.append(done.stderr)
        assert time.monotonic() < deadline, f"{command}: {failures}"
        if "without --abort" in done.stderr:
            command = tuple(word for word in command if word != "--abort")
        time.sleep(1)


def _killed(operator: Operator, line: str, *command: str) -> bool:
    process = operator.start(*command)
    assert process.stderr
    for said in process.stderr:
        if said.startswith(line):
            process.send_signal(signal.SIGKILL)
            operator.end(process)
            return True
    assert operator.end(process).returncode, f"done without saying {line!r}"
    return False


def pod(name: str, node: str, *command: str, **spec: Any) -> dict[str, Any]:
    """A pod of busybox on ``node`` that runs ``command`` (by default it sleeps) and ends at once when told to."""
    runs = list(command) or ["sh", "-c", "trap 'exit 0' TERM; sleep 86400 & wait"]
    container = {"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "command": runs}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": f"{node}.k8s.internal",
            "tolerations": EVERYWHERE,
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            **spec,
        },
    }


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Path:
    """A clone of what is committed and what is not, without anything that was made here."""
    folder = tmp_path_factory.mktemp("clone") / "smallkube"
    listed = subprocess.run(
        ["git", "-C", REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
    ).stdout
    names = b"\0".join(name for name in listed.split(b"\0") if (REPOSITORY / os.fsdecode(name)).exists())
    folder.mkdir()
    packed = subprocess.run(
        ["tar", "-C", REPOSITORY, "--null", "--files-from=-", "-c"], input=names, capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "-C", folder, "-x"], input=packed, check=True)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A newcomer's: labs of its own, the user's cache, nothing of this checkout on PATH."""
    state = tmp_path_factory.mktemp("state")
    path = ":".join(entry for entry in os.environ["PATH"].split(":") if not entry.startswith(str(REPOSITORY)))
    dropped = ("SMALLKUBE_", "PYTEST_", "PYTHON", "MAKE", "MFLAGS", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    yield {**kept, "PATH": path, "XDG_STATE_HOME": str(state), "TERM": "xterm", "COLUMNS": "80"}
    for folder in (state / "smallkube/lab").glob("*/"):
        Lab(Places(Places.find(os.environ).cache, folder.parent), folder.name).down()


MakeCluster = Callable[[str, int], AbstractContextManager[LabCluster]]


@pytest.fixture(scope="session")
def programs() -> Path:
    """Kubernetes' programs as the lab built them, in the user's own cache."""
    try:
        check_prerequisites()
    except UsageError as error:
        require("cluster", False, str(error))
    built = kubernetes.built(Places.find(os.environ).cache)
    require("cluster", built, "Kubernetes is not built (make lab-kubernetes)")
    assert built is not None
    return built


@pytest.fixture(scope="session")
def make_cluster(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeCluster:
    """Makes a cluster of so many nodes, all of them Ready, that is there while the block runs."""
    places = Places(Places.find(os.environ).cache, tmp_path_factory.mktemp("clusters"))

    @contextmanager
    def make(name: str, nodes: int) -> Iterator[LabCluster]:
        lab = Lab(places, f"{name}-{os.getpid()}")
        try:
            place = lab.up(nodes, None, lambda _text: None, lambda _node, _text: None, programs)
            cluster = LabCluster(Operator(lab, place))
            deploy(cluster)
            yield cluster
        finally:
            lab.down()

    return make


def deploy(cluster: LabCluster, steps: Sequence[str] = ("keys.generate", "nix.render", "deploy")) -> None:
    """What an operator does with new machines, until every one of them is a node that is Ready."""
    cluster.operator.done("keys.scan", "--yes")
    for step in steps:
        done = cluster.operator.inv(step)
        assert done.returncode == 0, f"{step}: {done.stderr}{done.stdout}{cluster.state()}"
    expected = {f"{node}.k8s.internal": True for node in cluster.nodes}
    cluster.eventually("every node Ready", lambda: cluster.ready() == expected)


@pytest.fixture(scope="package")
def cluster(make_cluster: MakeCluster) -> Iterator[LabCluster]:
    """A cluster of two nodes that the tests of a session share; what one changes there it must undo."""
    with make_cluster("cluster", 2) as made:
        yield made
