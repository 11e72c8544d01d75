"""Findings over the machines' states: pure; each names node, check, result and what was seen."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from smallkube.deploy.inspection import State, units_of
from smallkube.inventory.models import Inventory, Node
from smallkube.secrets import policy

TABLES = frozenset({"inet nixos-fw", "ip kube-nat", "ip6 kube-nat"})
MAX_HANDSHAKE_SECONDS = 180
"""WireGuard renews its session at least every two minutes while there is traffic, such as our pings."""


Result = Literal["ok", "failed", "inactive"]


@dataclass(frozen=True)
class Finding:
    """``result`` is inactive for what a machine can't do or be asked, which is neither well nor a fault."""

    node: str
    check: str
    result: Result
    detail: str


def _finding(node: Node, check: str, faults: Collection[str], seen: str) -> Finding:
    return Finding(node.name, check, "failed" if faults else "ok", "; ".join(faults) or seen)


def network(inventory: Inventory, node: Node, state: State, public_keys: Mapping[int, str]) -> Iterator[Finding]:
    """The bridge, WireGuard's handshakes and pings across the tunnel. ``public_keys``: index → WireGuard key."""
    plan = inventory.addressing
    own = (plan.host6(node.index), plan.host4(node.index))
    missing = [f"{address} is missing" for address in own if address not in state.addresses("brkube")]
    yield _finding(node, "brkube", missing, ", ".join(own))
    others = [other for other in inventory.nodes if other != node]
    if others:
        yield _handshakes(node, state, {other.name: public_keys.get(other.index, "") for other in others})
        mtu = inventory.cluster.network.mtu
        yield _pings(node, state, "IPv6", {other.name: plan.host6(other.index) for other in others}, mtu)
        yield _pings(node, state, "IPv4", {other.name: plan.host4(other.index) for other in others}, mtu)


def _handshakes(node: Node, state: State, keys: Mapping[str, str]) -> Finding:
    ages = {name: state.handshakes.get(key) for name, key in keys.items()}
    fresh = {name: age for name, age in ages.items() if age is not None and age <= MAX_HANDSHAKE_SECONDS}
    faults = [f"{name}: {_handshake_fault(age)}" for name, age in ages.items() if name not in fresh]
    seen = f"handshake with {', '.join(fresh)}" if len(fresh) <= 4 else f"handshake with all {len(fresh)} peers"
    return _finding(node, "wgkube", faults, f"{seen}, at most {max(fresh.values(), default=0)} s ago")


def _pings(node: Node, state: State, family: str, addresses: Mapping[str, str], mtu: int) -> Finding:
    times, full = state.milliseconds("ping"), state.milliseconds("mtu")
    faults = []
    for name, address in addresses.items():
        if times.get(address) is None:
            faults.append(f"{name} ({address}) does not answer")
        elif full.get(address) is None:
            faults.append(f"{name} ({address}) loses packets of {mtu} bytes: lower network.mtu")
    slowest = max((times.get(address) or 0.0 for address in addresses.values()), default=0.0)
    names = ", ".join(addresses) if len(addresses) <= 4 else f"all {len(addresses)} nodes"
    return _finding(node, f"ping {family}", faults, f"{names}: at most {slowest:.1f} ms, packets of {mtu} bytes too")


def _handshake_fault(age: int | None) -> str:
    return "no handshake" if age is None else f"last handshake {age} s ago"


def system(inventory: Inventory, node: Node, state: State, digest: str) -> Iterator[Finding]:
    """What runs, whether it is what the workspace holds (bundle ``digest``), and whether it survives a reboot."""
    last = state.last_deploy
    if not last:
        yield Finding(node.name, "system", "failed", "nothing was ever deployed")
        return
    faults = []
    if state.system != last["system"]:
        faults.append(f"runs {state.system}, not what was deployed")
    if last["digest"] != digest:
        faults.append(f"the workspace has changed since ({digest[:12]}): inv deploy")
    if state.booted_next != state.system:
        faults.append("another system boots next")
    seen = f"bundle {last['digest'][:12]}, generation {last['generation'] or '-'}, {last['time']} by {last['operator']}"
    yield _finding(node, "system", faults, seen)


def protection(inventory: Inventory, node: Node, state: State, existing: Collection[str]) -> Iterator[Finding]:
    """Firewall tables, and secrets: there, with their rights, and no others; ``existing`` are the files in keys/."""
    absent = sorted(TABLES - state.tables)
    seen = ", ".join(sorted(TABLES))
    yield _finding(node, "nftables", [f"no table {name}" for name in absent], seen)
    expected = policy.secrets_on(inventory, node, existing)
    faults = [f"{name} is missing" for name in sorted(set(expected) - set(state.secrets))]
    faults += [f"{name} should not be here" for name in sorted(set(state.secrets) - set(expected))]
    for name in sorted(set(expected) & set(state.secrets)):
        access = str(expected[name].access)
        if state.secrets[name] != access:
            faults.append(f"{name} has {state.secrets[name]}, not {access}")
    yield _finding(node, "/run/agenix", faults, f"{len(expected)} secrets with the right owners and modes")
    yield _readable(node, state, {row.file for row in expected.values()}, existing)


def _readable(node: Node, state: State, own: Collection[str], existing: Collection[str]) -> Finding:
    readable = set(state.lines("readable"))
    if "?" in readable:
        return Finding(node.name, "host key", "inactive", "not tried: no age on this machine")
    faults = [f"can't decrypt {name}" for name in sorted(set(own) - readable)]
    faults += [f"can decrypt {name}" for name in sorted(readable - set(own))]
    return _finding(node, "host key", faults, f"decrypts its own {len(own)} of {len(existing)} secrets, no other")


def services(node: Node, state: State) -> Iterator[Finding]:
    """etcd's health and what runs; a unit whose condition is not met is inactive, never reported as running."""
    if node.role == "primary":
        said = " ".join(state.lines("etcd")) or "no socket /run/etcd/grpc"
        yield _finding(node, "etcd", [] if said == "healthy" else [said], "healthy over its socket")
    groups: dict[Result, list[str]] = {"ok": [], "inactive": [], "failed": []}
    for name in units_of(node):
        groups[_unit_result(state.units.get(name, {}))].append(name)
    words: dict[Result, str] = {
        "ok": "run: ",
        "inactive": "can't run here (condition not met): ",
        "failed": "do not run: ",
    }
    for result, names in groups.items():
        if names:
            yield Finding(node.name, "services", result, words[result] + ", ".join(names))


def _unit_result(unit: Mapping[str, str]) -> Result:
    if unit.get("ActiveState") == "active":
        return "ok"
    asked = unit.get("ConditionTimestampMonotonic", "0") != "0"
    unmet = unit.get("ActiveState") == "inactive" and asked and unit.get("ConditionResult") == "no"
    return "inactive" if unmet else "failed"
