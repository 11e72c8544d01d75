"""Reads from the machines themselves what state they are in, and judges it against inventory and policy."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smallkube.deploy.facts import unpushed_script
from smallkube.inventory.models import Inventory, Node
from smallkube.remote.host import Host

PRIMARY_UNITS = ("etcd", "kube-apiserver", "kube-activation", "kube-scheduler", "kube-controller-manager")
NODE_UNITS = ("generate-kubeconfig-node", "crio", "kubelet", "kube-proxy", "coredns")


@dataclass(frozen=True)
class State:
    """What ``inspect.sh`` found, by section: lines as they came."""

    sections: Mapping[str, tuple[str, ...]]

    def lines(self, name: str) -> tuple[str, ...]:
        return self.sections.get(name, ())

    @property
    def clock(self) -> int:
        """The machine's clock, seconds since 1970."""
        return int(self.lines("time")[0])

    @property
    def system(self) -> str:
        """Store path of the running system."""
        return self.lines("system")[0]

    @property
    def booted_next(self) -> str:
        """Store path of the system that boots next."""
        return self.lines("system")[1]

    @property
    def last_deploy(self) -> Mapping[str, str]:
        """The last entry of the machine's history that took effect; empty when there is none."""
        lines = self.lines("history")
        return dict(json.loads(lines[0])) if lines else {}

    def addresses(self, interface: str) -> frozenset[str]:
        """The addresses that ``interface`` has."""
        text = "".join(self.lines("addresses"))
        found: list[dict[str, Any]] = json.loads(text) if text else []
        return frozenset(
            address["local"]
            for entry in found
            if entry.get("ifname") == interface
            for address in entry.get("addr_info", ())
        )

    def milliseconds(self, section: str) -> dict[str, float | None]:
        """Address → time of the round trip (ms), or None when nothing came back."""
        pairs = (line.split() for line in self.lines(section))
        return {address: None if time == "lost" else float(time) for address, time in pairs}

    @property
    def handshakes(self) -> dict[str, int | None]:
        """Peer's public key → seconds since its last handshake, or None when there was none."""
        pairs = (line.split() for line in self.lines("handshakes"))
        return {key: max(0, self.clock - int(time)) if time != "0" else None for key, time in pairs}

    @property
    def tables(self) -> frozenset[str]:
        """nftables' tables, "inet nixos-fw"."""
        return frozenset(line.removeprefix("table ") for line in self.lines("tables"))

    @property
    def secrets(self) -> dict[str, str]:
        """Name under /run/agenix → "MODE OWNER GROUP"."""
        rows = (line.removeprefix("/run/agenix/").split(maxsplit=1) for line in self.lines("secrets"))
        return dict(rows)

    @property
    def units(self) -> dict[str, Mapping[str, str]]:
        """Unit's name without suffix → its LoadState, ActiveState, ConditionResult."""
        blocks = "\n".join(self.lines("units")).split("\n\n")
        found = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]
        return {unit["Id"].removesuffix(".service"): unit for unit in found if "Id" in unit}


def units_of(node: Node) -> tuple[str, ...]:
    """The services that ``node`` is to run."""
    return (*PRIMARY_UNITS, *NODE_UNITS) if node.role == "primary" else NODE_UNITS


def read(session: Host, inventory: Inventory, bundle_digest: str) -> State:
    """Look at the node; pings every other node across the tunnel, in both families, also with full-sized packets."""
    plan, others = inventory.addressing, [node for node in inventory.nodes if node != session.node]
    targets = [address for node in others for address in (plan.host6(node.index), plan.host4(node.index))]
    units = [f"{unit}.service" for unit in units_of(session.node)]
    arguments = (str(inventory.cluster.network.mtu), bundle_digest, *units, "--", *targets)
    return parse(session.run_checked(unpushed_script("inspect", *arguments, timeout=120)).text)


def parse(text: str) -> State:
    """Split what ``inspect.sh`` printed into its sections."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line.startswith("@"):
            current = sections.setdefault(line[1:], [])
        else:
            current.append(line)
    return State({name: _without_blank_end(lines) for name, lines in sections.items()})


def _without_blank_end(lines: Sequence[str]) -> tuple[str, ...]:
    end = len(lines)
    while end and not lines[end - 1]:
        end -= 1
    return tuple(lines[:end])
