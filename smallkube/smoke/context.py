"""What the checks work on: the machines, kubectl on the primary, and the pods of this run."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import Inventory, Node
from smallkube.kube.members import KUBECTL
from smallkube.remote.command import Command, Result
from smallkube.remote.host import Connect, Host

AT_ONCE = 8
"""Commands at a time over one connection: sshd allows ten (MaxSessions)."""
SCRIPTS = Path(__file__).with_name("scripts")
_TIMED_OUT = 124
"""What timeout(1) exits with when it ended the command."""

T = TypeVar("T")
K = TypeVar("K")


class Failed(SmallkubeError):
    """A check failed; the message says what to look at."""


class NotReached(SmallkubeError):
    """A check could not be made, because of something that another check reports."""


@dataclass(frozen=True)
class Options:
    """``image`` is what the pods run (a busybox); ``egress`` is HOST:PORT outside, "" for none. Seconds."""

    image: str
    pull_policy: str
    egress: str = ""
    timeout: int = 300
    rollout: int = 90
    keep: bool = False


@dataclass(frozen=True)
class Pod:
    """A pod of this run, on a node (short name), with an address of each family ("" for none)."""

    name: str
    node: str
    ip6: str
    ip4: str


@dataclass
class SmokeContext:
    """``inventory`` and ``options`` are given, the rest is found on the way.

    ``deadline`` is on the monotonic clock; ``made``: the namespace is there. ``answers`` has what pods found, by node,
    ``results`` what machines did; ``unreachable`` has why a machine could not be asked.
    """

    inventory: Inventory
    connect: Connect
    options: Options
    certificate: bytes | None
    namespace: str
    stack: ExitStack
    deadline: float = float("inf")
    made: bool = False
    pods: list[Pod] = field(default_factory=list)
    answers: dict[str, dict[str, str]] = field(default_factory=dict)
    results: dict[str, dict[str, str]] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)
    services: dict[str, str] = field(default_factory=dict)
    node_port: int = 0
    _machines: dict[str, Host | SmallkubeError] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def machine(self, node: Node) -> Host:
        """A connection that lasts for the whole run; raises SmallkubeError, the same again when asked again."""
        with self._lock:
            own = self._locks.setdefault(node.name, threading.Lock())
        with own:
            if node.name not in self._machines:
                try:
                    self._machines[node.name] = self.stack.enter_context(self.connect(node))
                except SmallkubeError as error:
                    self._machines[node.name] = error
            found = self._machines[node.name]
        if isinstance(found, SmallkubeError):
            raise found
        return found

    @property
    def primary(self) -> Host:
        return self.machine(self.inventory.primary)

    def reconnect(self) -> None:
        """Forget the connection to the primary, so that the next command makes a new one."""
        self._machines.pop(self.inventory.primary.name, None)

    def host(self, node: Node) -> str:
        """The node's name in the cluster."""
        return self.inventory.addressing.node_host(node.index)

    @cached_property
    def readyz(self) -> Result:
        """What the API server says of its parts."""
        return self.ask("get", "--raw", "/readyz?verbose", seconds=10)

    @cached_property
    def nodes(self) -> list[dict[str, Any]]:
        """The Node objects as they were when first asked for."""
        items: list[dict[str, Any]] = self.get("nodes")["items"]
        return items

    @property
    def members(self) -> tuple[Node, ...]:
        """The inventory's nodes that the cluster has; of the others one check tells, and no other is red for it."""
        there = {item["metadata"]["name"] for item in self.nodes}
        return tuple(node for node in self.inventory.nodes if self.host(node) in there)

    def ask(self, *words: str, stdin: bytes | None = None, seconds: int = 20) -> Result:
        """kubectl on the primary, given up after ``seconds`` and when the time for everything is over."""
        seconds = int(max(1, min(seconds, self.deadline - time.monotonic())))
        argv = ("timeout", str(seconds + 2), *KUBECTL, f"--request-timeout={seconds}s", *words)
        done = self.primary.run(Command(argv, stdin=stdin, timeout=seconds + 10))
        if done.status == _TIMED_OUT and not done.stderr.strip():
            return Result(done.status, done.stdout, f"no answer in {seconds} s")
        return done

    def kubectl(self, *words: str, stdin: bytes | None = None, seconds: int = 20) -> str:
        """``ask`` that must succeed; raises Failed with kubectl's last words."""
        done = self.ask(*words, stdin=stdin, seconds=seconds)
        if not done.ok:
            raise Failed(f"kubectl {words[0]}: {done.last_line}")
        return done.text

    def get(self, *words: str) -> dict[str, Any]:
        """``kubectl get`` as an object."""
        found: dict[str, Any] = json.loads(self.kubectl("get", "--output=json", *words))
        return found

    def apply(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Create or change ``objects``."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--filename=-", stdin=json.dumps(listed).encode())


def parallel(items: Sequence[K], work: Callable[[K], T]) -> Iterator[tuple[K, T | SmallkubeError]]:
    """``work`` on each of ``items``, some at a time; what it raises is its result."""

    def one(item: K) -> T | SmallkubeError:
        try:
            return work(item)
        except SmallkubeError as error:
            return error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from zip(items, pool.map(one, items), strict=True)


def listed(names: Sequence[str], limit: int = 6) -> str:
    """Some names for a message."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
