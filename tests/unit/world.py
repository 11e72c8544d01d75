"""Machines and a Kubernetes cluster that exist only in memory, and record what is done to them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from smallkube.core.errors import SmallkubeError
from smallkube.inventory.load import parse
from smallkube.inventory.models import Inventory, Node
from smallkube.kube import members
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.host import Command, Result

INVENTORY = """\
cluster: {name: test}
nodes:
  node1: {peer_ip: 192.168.0.1}
  node2: {peer_ip: 192.168.0.2}
  node10: {peer_ip: 192.168.0.10}
"""


@dataclass
class Computer:
    """A machine: ``refusals`` connections fail after a restart, ``starting`` more find it still starting."""

    boots: int = 1
    restarts: bool = True
    refusals: int = 0
    starting: int = 0
    failed: list[str] = field(default_factory=list)
    fails_later: list[str] = field(default_factory=list)
    deploy: str = ""


@dataclass
class Member:
    """A node of the cluster: ``stale`` reports are from before the restart."""

    cordoned: bool = False
    marked: bool = False
    stale: int = 0
    ready: bool = True


class World:
    """Machines and cluster, and everything that was done to them, in order."""

    def __init__(self) -> None:
        self.inventory: Inventory = parse(INVENTORY, Path("inventory.yaml"))
        self.computers = {node.name: Computer() for node in self.inventory.nodes}
        self.members: dict[str, Member] = {}
        self.api = "inactive"
        self.drain_error = ""
        self.done: list[str] = []
        self.on_drain: Callable[[], None] = lambda: None

    def join(self) -> None:
        self.api = "active"
        self.members = {f"{name}.k8s.internal": Member() for name in self.computers}

    def connect(self, node: Node) -> FakeHost:
        computer = self.computers[node.name]
        if computer.boots > 1 and computer.refusals:
            computer.refusals -= 1
            raise SmallkubeError("connection refused", where=node.name)
        return FakeHost(node, Hands(self, node.name).answer)


class Hands:
    """What one machine answers."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name, self.computer = world, name, world.computers[name]

    def answer(self, command: Command) -> Result:
        computer = self.computer
        match command.argv:
            case ("cat", "/proc/sys/kernel/random/boot_id"):
                return reply(f"{self.name}-boot-{computer.boots}\n")
            case ("systemctl", "is-system-running"):
                if computer.boots > 1 and computer.starting:
                    computer.starting -= 1
                    return reply("starting\n", 1)
                return reply("degraded\n", 1) if computer.failed else reply("running\n")
            case ("systemctl", "list-units", *_):
                return reply("".join(f"{unit} loaded failed failed Something\n" for unit in computer.failed))
            case ("systemctl", "is-active", "kube-apiserver.service"):
                return reply(f"{self.world.api}\n", 0 if self.world.api == "active" else 3)
            case ("systemctl", "--no-block", "reboot"):
                return self._restart()
            case ("find", *_):
                return reply(computer.deploy)
            case ("/bin/sh", "-c", _, "kubectl", *words):
                assert self.name == "node1"
                return self.answer(Command(tuple(words))) if self.world.api == "active" else reply()
            case ("kubectl", "--kubeconfig=/run/kubeconfig-root", *words):
                assert self.name == "node1"
                return self._kubectl([word for word in words if not word.startswith("--")])
        raise AssertionError(command)

    def _restart(self) -> Result:
        self.world.done.append(f"restart {self.name}")
        if self.computer.restarts:
            self.computer.boots += 1
            self.computer.failed = [*self.computer.failed, *self.computer.fails_later]
        raise SmallkubeError("connection lost")

    def _kubectl(self, words: list[str]) -> Result:
        name = words[-1] if words[0] == "get" else words[2] if words[0] == "annotate" else words[1]
        found = self.world.members.get(name)
        if words[0] == "get":
            return reply(self._node(name, found) if found else "")
        self.world.done.append(" ".join(words[:2] if words[0] != "annotate" else words[2:]))
        assert found
        match words[0]:
            case "annotate":
                found.marked = not words[-1].endswith("-")
            case "drain":
                found.cordoned = True
                self.world.on_drain()
                if self.world.drain_error:
                    return Result(1, b"", self.world.drain_error)
            case "uncordon":
                found.cordoned = False
        return reply("")

    def _node(self, name: str, found: Member) -> str:
        machine = name.partition(".")[0]
        boots = self.world.computers[machine].boots
        if boots > 1 and found.stale:
            found.stale -= 1
            boots -= 1
        return json.dumps(
            {
                "metadata": {"annotations": {members.MARK: "reboot"} if found.marked else {}},
                "spec": {"unschedulable": True} if found.cordoned else {},
                "status": {
                    "conditions": [{"type": "Ready", "status": str(found.ready)}],
                    "nodeInfo": {"bootID": f"{machine}-boot-{boots}"},
                },
            }
        )


class Silent:
    def step(self, node: str, text: str) -> None: ...
    def done(self, node: str, outcome: str) -> None: ...
    def output(self, node: str, line: str, counts: str) -> None: ...
