"""Checks of a machine: against the workspace, before a deploy, and of its health before and after an activation."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated

from pydantic import Field

from smallkube.core.checks import Check, Result, failed
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.deploy.facts import SCRIPTS, DeployFacts, HostFacts, Progress, units_of
from smallkube.inventory.models import Inventory, Node
from smallkube.remote import fleet, scripts
from smallkube.remote.host import Command, Connect, Host
from smallkube.remote.scripts import UnexpectedOutputError
from smallkube.secrets import policy
from smallkube.secrets.host_keys import HostKey, parse_host_key

_FORWARD = "inet nixos-fw forward"
"""The chain in which our rules accept what pods and tunnel send."""
TABLES = frozenset({"inet nixos-fw", "ip kube-nat", "ip6 kube-nat"})
MAX_HANDSHAKE_SECONDS = 180
"""WireGuard renews its session at least every two minutes while there is traffic, such as our pings."""
MIN_STORE_KIB = 1 << 20
MIN_STATE_KIB = 50 << 10
MAX_CLOCK_SECONDS = 30
READY_SECONDS = 90
"""Of the 120 until a node rolls back by default: after restarts of the API server kubelets pause between tries."""
TRIES_AFTER = 20
"""In how many seconds of the clock a check may fail after an activation: services need time to start."""
_OWN_UNITS = ("smallkube-activate-", "smallkube-rollback-")
_UNITS_FAILED = re.compile(r"the following units failed: (.*)")
"""How switch-to-configuration(8) names them, also those that are to be started again."""


def network(inventory: Inventory, node: Node, facts: HostFacts, public_keys: Mapping[int, str]) -> Iterator[Check]:
    """The bridge, WireGuard's handshakes and pings through the tunnel. ``public_keys``: index → WireGuard key."""
    plan = inventory.addressing
    own = (plan.host6(node.index), plan.host4(node.index))
    missing = [f"{address} is missing" for address in own if address not in facts.bridge]
    yield Check.of(node.name, "brkube", missing, ", ".join(own))
    if foreign := [chain[:100] for chain in facts.dropping if chain != _FORWARD]:
        problem = f"{', '.join(foreign)}: its policy drops what pods send to other nodes, unless it accepts that itself"
        yield Check(node.name, "forwarding", Result.WARNING, f"{problem} (docs/networking.md)")
    others = [other for other in inventory.nodes if other != node]
    if not others:
        return
    ages = {other.name: facts.handshake_age(public_keys.get(other.index, "")) for other in others}
    fresh = {name: age for name, age in ages.items() if age is not None and age <= MAX_HANDSHAKE_SECONDS}
    faults = [
        f"{name}: {'no handshake' if age is None else f'last handshake {age} s ago'}"
        for name, age in ages.items()
        if name not in fresh
    ]
    seen = f"handshake with {', '.join(fresh)}" if len(fresh) <= 4 else f"handshake with all {len(fresh)} peers"
    yield Check.of(node.name, "wgkube", faults, f"{seen}, at most {max(fresh.values(), default=0)} s ago")
    if ":" in node.peer_ip and not inventory.cluster.network.private:
        yield _source(node, facts, others)
    mtu = inventory.cluster.network.mtu
    yield _pings(node, facts, "IPv6", {other.name: plan.host6(other.index) for other in others}, mtu)
    yield _pings(node, facts, "IPv4", {other.name: plan.host4(other.index) for other in others}, mtu)


def _source(node: Node, facts: HostFacts, others: Iterable[Node]) -> Check:
    """The peers accept what comes from ``peer_ip`` alone; a temporary address (RFC 8981) is another one.

    IPv4 is not compared: a machine may be behind an address that is translated.
    """
    own = str(ip_address(node.peer_ip))
    faults = [
        f"sends to {other.name} from {source}, not from peer_ip: disable temporary addresses or correct peer_ip"
        for other in others
        if (source := facts.sources.get(str(ip_address(other.peer_ip)))) and ":" in source and source != own
    ]
    return Check.of(node.name, "source", faults, f"sends from {own}")


def _pings(node: Node, facts: HostFacts, family: str, addresses: Mapping[str, str], mtu: int) -> Check:
    faults = []
    for name, address in addresses.items():
        if facts.ping.get(address) is None:
            faults.append(f"{name} ({address}) does not answer")
        elif facts.mtu.get(address) is None:
            faults.append(f"{name} ({address}) loses packets of {mtu} bytes: lower network.mtu")
    slowest = max((facts.ping.get(address) or 0.0 for address in addresses.values()), default=0.0)
    names = ", ".join(addresses) if len(addresses) <= 4 else f"all {len(addresses)} nodes"
    return Check.of(
        node.name, f"ping {family}", faults, f"{names}: at most {slowest:.1f} ms, packets of {mtu} bytes too"
    )


def system(node: Node, facts: HostFacts, digest: str) -> Check:
    """What runs, whether it is what the workspace holds (bundle ``digest``), and whether it survives a reboot."""
    last = facts.last_deploy
    if not last:
        return Check(node.name, "system", Result.FAILED, "nothing was ever deployed")
    faults = []
    if facts.system != last.system:
        faults.append(f"runs {facts.system}, not what was deployed")
    if last.digest != digest:
        faults.append(f"the workspace has changed since ({digest[:12]}): inv deploy")
    if facts.profile != facts.system:
        faults.append("another system boots next")
    seen = f"bundle {last.digest[:12]}, generation {last.generation or '-'}, {last.time} by {last.operator}"
    return Check.of(node.name, "system", faults, seen)


def protection(inventory: Inventory, node: Node, facts: HostFacts, existing: Collection[str]) -> Iterator[Check]:
    """Firewall tables, and secrets: present, with their rights, and no others; ``existing`` are the files in keys/."""
    missing = [f"no table {name}" for name in sorted(TABLES - facts.tables)]
    yield Check.of(node.name, "nftables", missing, ", ".join(sorted(TABLES)))
    expected, found = policy.secrets_by_node(inventory, existing)[node.name], facts.secrets
    faults = [f"{name} is missing" for name in sorted(set(expected) - set(found))]
    faults += [f"{name} must not be on this node" for name in sorted(set(found) - set(expected))]
    for name in sorted(set(expected) & set(found)):
        access = str(expected[name].access)
        if found[name] != access:
            faults.append(f"{name} has {found[name]}, not {access}")
    yield Check.of(node.name, "/run/agenix", faults, f"{len(expected)} secrets with the right owners and modes")
    own = {row.file for row in expected.values()}
    if facts.readable is None:
        yield Check(node.name, "host key", Result.SKIPPED, "no age on this machine")
        return
    faults = [f"can't decrypt {name}" for name in sorted(own - facts.readable)]
    faults += [f"can decrypt {name}" for name in sorted(facts.readable - own)]
    yield Check.of(node.name, "host key", faults, f"decrypts its own {len(own)} of {len(existing)} secrets, no other")


def services(node: Node, facts: HostFacts) -> Iterator[Check]:
    """etcd's health and what runs; a unit whose condition is not met is skipped, never reported as running."""
    if node.role == "primary":
        output = facts.etcd or "no socket /run/etcd/grpc"
        yield Check.of(node.name, "etcd", [] if output == "healthy" else [output], "healthy over its socket")
    units = facts.unit_states
    results = {name: _unit_result(units.get(name, {})) for name in units_of(node)}
    words = {Result.OK: "run", Result.SKIPPED: "can't run here (condition not met)", Result.FAILED: "do not run"}
    for result, word in words.items():
        if names := [name for name, found in results.items() if found is result]:
            yield Check(node.name, "services", result, f"{word}: {', '.join(names)}")


def _unit_result(unit: Mapping[str, str]) -> Result:
    if unit.get("ActiveState") == "active":
        return Result.OK
    tried = unit.get("ConditionTimestampMonotonic", "0") != "0"
    unmet = unit.get("ActiveState") == "inactive" and tried and unit.get("ConditionResult") == "no"
    return Result.SKIPPED if unmet else Result.FAILED


def unfit(facts: DeployFacts, now: float, expected: HostKey | None) -> Sequence[str]:
    """Why this machine must not be deployed to, in words; ``now`` in seconds since 1970, ``expected`` its host key."""
    reasons = []
    if facts.store_free < MIN_STORE_KIB:
        reasons.append(f"only {facts.store_free >> 10} MiB free in /nix/store; run inv nodes.gc")
    if facts.state_free < MIN_STATE_KIB:
        reasons.append(f"only {facts.state_free >> 10} MiB free in /var/lib")
    if abs(facts.clock - now) > MAX_CLOCK_SECONDS:
        reasons.append(f"its clock is {facts.clock - now:+.0f} s off; certificates and tokens depend on it")
    try:
        host_key = parse_host_key(facts.host_key, "host key")
    except UsageError:
        host_key = None
    if not host_key or host_key != expected:
        reasons.append(
            "its /etc/ssh/ssh_host_ed25519_key is not the key that the secrets are encrypted to; "
            "run inv keys.scan --replace, inv keys.rekey"
        )
    return reasons


def failed_units(before: DeployFacts, now: Progress) -> Sequence[str]:
    """Units that have failed since ``before``."""
    return sorted(unit for unit in now.failed - before.failed if not unit.startswith(_OWN_UNITS))


def unhealthy(before: DeployFacts, now: Progress, system: str) -> Sequence[str]:
    """What is wrong after the activation of ``system``, in words."""
    reasons = []
    if now.status is None:
        reasons.append("the activation has not ended")
    elif now.status:
        units = _UNITS_FAILED.findall(now.log)
        named = f" ({', '.join(units)})" if units else ""
        reasons.append(f"switch-to-configuration ended with status {now.status}{named}")
    if now.system != system:
        reasons.append(f"it runs {now.system}")
    if failing := failed_units(before, now):
        reasons.append(f"failed units: {', '.join(failing)}")
    return reasons


@dataclass(frozen=True)
class Measured:
    """What ``scripts/checks.sh`` prints; the checks have no subject."""

    checks: Annotated[tuple[Check, ...], Field(min_length=1)]


@dataclass
class Health:
    """The health checks of one node, ``before`` and ``after`` an activation.

    ``without_tunnel``: why the tunnel to the primary cannot work after it, "" when it can. With ``new_peers`` it has
    to work then, whatever it did before.
    """

    inventory: Inventory
    node: Node
    connect: Connect
    new_peers: bool = False
    without_tunnel: str = ""
    before: tuple[Check, ...] = ()
    after: tuple[Check, ...] = ()

    def measure_before(self, host: Host) -> None:
        """The operator's own checks count whatever they found before, so they run only afterwards."""
        tunnel = not self.new_peers
        both = fleet.together(lambda: self._checks(host, 1, tunnel=tunnel), lambda: self._ready(host, 1))
        self.before = (*both[0], *both[1])

    def measure_after(self, host: Host) -> list[str]:
        """What is wrong with the new system, in words."""
        found = [*self._checks(host, TRIES_AFTER, tunnel=not self.without_tunnel)]
        for argv in self.node.checks:
            done = host.run(Command(argv, timeout=60))
            found.append(Check.of(self.node.name, " ".join(argv), [] if done.ok else [done.last_line]))
        if self.without_tunnel:
            found.append(Check(self.node.name, "tunnel to the primary", Result.SKIPPED, self.without_tunnel))
        self.after = (*found, *self._ready(host, READY_SECONDS))
        return broken(self.before, self.after)

    def _checks(self, host: Host, tries: int, *, tunnel: bool) -> tuple[Check, ...]:
        plan, primary = self.inventory.addressing, self.inventory.primary.index
        addresses = (plan.host6(primary), plan.host4(primary)) if tunnel else ()
        return _measure(host, "health checks", "node", self.node.role, str(tries), *addresses, timeout=300)

    def _ready(self, host: Host, seconds: int) -> tuple[Check, ...]:
        name = self.inventory.addressing.node_host(self.node.index)
        arguments = ("node Ready", "ready", name, str(seconds))
        if self.node.role == "primary":
            return _measure(host, *arguments, timeout=seconds + 60)
        try:
            with self.connect(self.inventory.primary) as primary:
                return _measure(primary, *arguments, timeout=seconds + 60)
        except SmallkubeError as error:
            reason = f"the primary is unreachable: {error.message}"
            return (Check(self.node.name, "node Ready", Result.SKIPPED, reason),)


def _measure(host: Host, title: str, *arguments: str, timeout: float) -> tuple[Check, ...]:
    try:
        return scripts.read(host, SCRIPTS.sent("checks", *arguments, title=title, timeout=timeout), Measured).checks
    except UnexpectedOutputError as error:
        return (Check(host.node.name, title, Result.FAILED, error.message),)


def broken(before: Iterable[Check], after: Iterable[Check]) -> list[str]:
    """The checks that failed and had not failed before, in words."""
    known = {check.check for check in failed(before)}
    return [_words(check) for check in failed(after) if check.check not in known]


def unconfirmed(before: Iterable[Check], after: Sequence[Check]) -> tuple[str, ...]:
    """What could not be confirmed, in words: skipped checks, and those that had failed before already."""
    known = {check.check for check in failed(before)}
    skipped = [f"{check.check} ({check.detail})" for check in after if check.result is Result.SKIPPED]
    return (*skipped, *(f"{_words(check)} (as before)" for check in failed(after) if check.check in known))


def _words(check: Check) -> str:
    return f"{check.check}: {check.detail}" if check.detail else check.check
