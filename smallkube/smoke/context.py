"""What the checks work on: the machines, kubectl on the primary, and the pods of this run."""

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from string import Template
from typing import Any, TypeVar
from zlib import crc32

from smallkube.core.errors import SmallkubeError, listed
from smallkube.core.polling import wait_until
from smallkube.inventory.models import Inventory, Node
from smallkube.kube.members import APPLY, KUBECTL
from smallkube.remote.host import Command, Connect, Host, Result
from smallkube.remote.scripts import Scripts

AT_ONCE = 8
"""Commands at a time over one connection: sshd allows ten (MaxSessions)."""
MARK = "smallkube-smoke"
"""How namespaces of ours begin, and their label ``LABEL``, by which leftovers of earlier runs are found."""
LABEL = f"app.kubernetes.io/managed-by={MARK}"
RECONNECT_SECONDS = 130
"""How long after the API server is up again its clients may still not know what is new.

Their pauses between tries double, also from one outage to the next if less than two minutes are between them: up to
60 s, which can't be set (client-go, NewReflectorWithOptions in tools/cache/reflector.go: 30 s, and as much again at
random). They may need two: the first watch begins at a revision that is too old for the new server's cache, so that
they have to list again. The rest is for the requests.
"""
REREAD_SECONDS = 320
"""How long after a node was added the API server may still not know its kubelet's certificate (identities.nix)."""
UNKNOWN_KUBELET = "certificate signed by unknown authority"
"""What kubectl says then, in the words of Go's crypto/x509."""
_AGES = """
systemctl show --timestamp=unix --property=ActiveEnterTimestamp --value kube-apiserver.service
stat --format=@%Y /var/lib/kube-identities/kubelets.crt || echo @0
date +@%s
"""
_TIMED_OUT = 124
"""What timeout(1) exits with when it ended the command."""

_MANIFESTS = Path(__file__).with_name("manifests")
SCRIPTS = Scripts(Path(__file__).with_name("scripts"))

T = TypeVar("T")
K = TypeVar("K")


class Failed(SmallkubeError):
    """A check failed; the table has the hint that goes with it."""


class NotReached(SmallkubeError):
    """A check could not be made, because of something that another check reports."""


class Skipped(SmallkubeError):
    """A check does not apply here."""


@dataclass(frozen=True)
class Options:
    """``image`` is what the pods run (a busybox); ``egress`` is HOST:PORT outside, "" for none. Seconds."""

    image: str
    pull_policy: str
    egress: str = ""
    timeout: int = 300
    rollout: int = 90
    keep: bool = False

    @property
    def slowness(self) -> int:
        """How many times as long as usual answers may take, and pods to be gone: as many as pods to start."""
        return max(1, self.rollout // 90)


@dataclass(frozen=True)
class Pod:
    """A pod of this run, on a node (short name), with an address of each family ("" for none)."""

    name: str
    node: str
    ip6: str
    ip4: str


@dataclass(frozen=True)
class Probe:
    """``words`` are a line of ``probe.sh``; ``check`` is what it is tried for, ``target`` what is tried."""

    check: str
    target: str
    words: tuple[str, ...]


Answers = Mapping[Probe, str]
"""What came of each try: "" when it worked, else the fault."""


@dataclass
class SmokeContext:
    """``inventory`` to ``stack`` are given, the rest is found out by the checks.

    ``deadline`` is on the monotonic clock. ``begun``: making the namespace was tried; ``made``: it is there.
    ``host_pods`` are those with hostNetwork, ``services`` the cluster IPs of each Service. ``answers`` has what pods
    found, by node, ``results`` what machines did; ``unreachable`` has why a machine could not be asked.
    """

    inventory: Inventory
    connect: Connect
    options: Options
    certificate: bytes | None
    namespace: str
    stack: ExitStack
    deadline: float = float("inf")
    begun: bool = False
    made: bool = False
    pods: list[Pod] = field(default_factory=list)
    host_pods: list[Pod] = field(default_factory=list)
    answers: dict[str, Answers] = field(default_factory=dict)
    results: dict[str, Answers] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)
    services: dict[str, tuple[str, ...]] = field(default_factory=dict)
    node_port: int = 0
    _machines: dict[str, Host] = field(default_factory=dict)

    def machine(self, node: Node) -> Host:
        """A connection that lasts for the whole run, first asked for by one thread only. Raises SmallkubeError."""
        if node.name not in self._machines:
            self._machines[node.name] = self.stack.enter_context(self.connect(node))
        return self._machines[node.name]

    @property
    def host_port(self) -> int:
        """Where pods with hostNetwork serve: below the NodePorts and the kernel's own, another one in each run."""
        return 20_000 + crc32(self.namespace.encode()) % 10_000

    @property
    def primary(self) -> Host:
        return self.machine(self.inventory.primary)

    def reconnect(self) -> None:
        """Forget the connection to the primary, so that the next command makes a new one."""
        self._machines.pop(self.inventory.primary.name, None)

    def host(self, node: Node) -> str:
        """The node's name in the cluster."""
        return self.inventory.addressing.node_host(node.index)

    def remaining(self, seconds: float) -> float:
        """``seconds``, or what is left of the time for everything."""
        return min(seconds, self.deadline - time.monotonic())

    def wait(self, missing: Callable[[], Sequence[str]], seconds: float, interval: float) -> None:
        """Ask until nothing is ``missing`` or the time is up, after which the caller reports what is."""
        with suppress(NotReached):
            wait_until(missing, self.remaining(seconds), "not yet", error=NotReached, interval=interval)

    @property
    def reconnecting(self) -> float:
        """For how many seconds clients of the API server may still not have come back since it was started."""
        return max(0.0, self._settled[0] - time.monotonic())

    @property
    def rereading(self) -> float:
        """For how many seconds the API server may still not know each kubelet's certificate."""
        return max(0.0, self._settled[1] - time.monotonic())

    @cached_property
    def _settled(self) -> tuple[float, float]:
        """By when all clients are back, and all kubelets known; on the monotonic clock."""
        done = self.primary.run(Command(("/bin/sh", "-c", _AGES), root=False))
        times = [int(word) for word in re.findall(r"^@([0-9]{1,12})$", done.text, re.MULTILINE)]
        if len(times) != 3 or max(times) != times[2]:  # nothing follows from times to come: the clock was set
            return 0, 0
        started, changed, _ = (moment - times[2] + time.monotonic() for moment in times)
        return started + RECONNECT_SECONDS, changed + REREAD_SECONDS if changed > started else 0

    @cached_property
    def readyz(self) -> Result:
        """What the API server says of its parts."""
        return self.ask("get", "--raw", "/readyz?verbose", seconds=10)

    @cached_property
    def api_fault(self) -> str:
        """Why nothing more can be asked of the API server, "" when it is ready."""
        try:
            return "" if self.readyz.ok else "the API server is not ready"
        except SmallkubeError as error:
            return error.message

    @cached_property
    def nodes(self) -> list[dict[str, Any]]:
        """The Node objects as they were when first asked for."""
        return self.items("nodes")

    @property
    def members(self) -> tuple[Node, ...]:
        """The inventory's nodes that the cluster has; nodes.inventory alone reports the others."""
        there = {item["metadata"]["name"] for item in self.nodes}
        return tuple(node for node in self.inventory.nodes if self.host(node) in there)

    def ask(self, *words: str, stdin: bytes | None = None, seconds: int = 20) -> Result:
        """kubectl on the primary, given up after ``seconds`` (on slow machines more) and when all time is over."""
        seconds = int(max(1, self.remaining(seconds * self.options.slowness)))
        argv = ("timeout", str(seconds + 2), *KUBECTL, f"--request-timeout={seconds}s", *words)
        done = self.primary.run(Command(argv, stdin=stdin, timeout=seconds + 10))
        if done.status == _TIMED_OUT and not done.stderr.strip():
            return Result(done.status, done.stdout, f"no answer in {seconds} s")
        return done

    def kubectl(self, *words: str, stdin: bytes | None = None) -> str:
        """``ask`` that must succeed; raises Failed with the last line of kubectl's output."""
        done = self.ask(*words, stdin=stdin)
        if not done.ok:
            raise Failed(f"kubectl {words[0]}: {done.last_line}")
        return done.text

    def items(self, *words: str) -> list[dict[str, Any]]:
        """The objects that ``kubectl get`` lists."""
        return list(json.loads(self.kubectl("get", "--output=json", *words))["items"])

    def manifest(self, file: str, **values: object) -> str:
        """``manifests/FILE.yaml`` for this run's namespace; ``values`` are filled in as JSON, which YAML includes."""
        filled = {key: json.dumps(value) for key, value in (values | {"namespace": self.namespace}).items()}
        return Template((_MANIFESTS / f"{file}.yaml").read_text()).substitute(filled)

    def apply(self, *manifests: str) -> None:
        """Create what is in ``manifests``, or change what they name of it."""
        self.kubectl(*APPLY, stdin="---\n".join(manifests).encode())


def in_parallel(items: Iterable[K], work: Callable[[K], T]) -> tuple[dict[K, T], dict[K, str]]:
    """``work`` on each of ``items``, some at a time: what it gave, and why it could not."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {item: pool.submit(work, item) for item in items}
    found: dict[K, T] = {}
    faults: dict[K, str] = {}
    for item, future in futures.items():
        try:
            found[item] = future.result()
        except SmallkubeError as error:
            faults[item] = error.message
    return found, faults


def fail_if(faults: Iterable[str]) -> None:
    """Raises Failed with the ``faults``, if there are any."""
    if text := listed(faults):
        raise Failed(text)
