"""The whole cluster as one value, for the page of ``cluster.report`` and its JSON; and what is to be done about it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from math import isfinite
from typing import Annotated

from pydantic import Field

from smallkube.deploy.checks import MAX_HANDSHAKE_SECONDS
from smallkube.deploy.facts import HostFacts
from smallkube.deploy.history import Entry
from smallkube.etcd.drills import Drill
from smallkube.etcd.status import Status as Etcd
from smallkube.inventory.models import Inventory, Node
from smallkube.kube.workloads import Pod, Service
from smallkube.operations.status import Row

PROBLEM, WARNING = "problem", "warning"
SOON = 60
"""Days before the end of support from which it is a warning."""
DRILL_DAYS = 35
"""Days after which a drill is due again (docs/operating.md, every month)."""
FULL = 0.1
"""The part of memory or of a disk that should be free."""
Size = Annotated[int, Field(ge=0, lt=1 << 50)]
_COMMAND = re.compile(r"\s*\(((?:inv [a-z]|git pull)[^()]*)\)")
_COMMANDS = (
    ("(wgkube|ping IPv.|brkube|source|forwarding):", "inv net.check --node {node}"),
    ("system:", "inv deploy --node {node}"),
    ("services:|is NotReady|is missing|its lease", "inv deploy.status --node {node}"),
    ("etcd|alarm|the database", "inv etcd.status"),
    ("the API server|neither", "inv deploy.status --node {primary}"),
    ("nix/flake.lock", "inv nix.render --update-lock"),
)
"""What a problem begins with → the command that fixes it, or says more."""


@dataclass(frozen=True)
class Finding:
    """``severity``: PROBLEM or WARNING. ``subject``: a node, a file or a backup, "" for the cluster. ``command``: fixes
    it or says more, "" where there is none.
    """

    severity: str
    subject: str
    text: str
    command: str = ""


@dataclass(frozen=True)
class Usage:
    """What usage.sh prints. ``load``: mean of five minutes; sizes in KiB; ``uptime`` in seconds."""

    cpus: Annotated[int, Field(ge=1, lt=1 << 16)]
    load: Annotated[float, Field(ge=0, lt=1e6)]
    memory: Size
    memory_free: Size
    store: Size
    store_free: Size
    state: Size
    state_free: Size
    uptime: Size


@dataclass(frozen=True)
class Machine:
    """One node. ``addresses``: in the tunnel. ``pods``: how many are there, ``bad_pods`` of them not ready; None when
    they can't be listed. ``usage`` is None when the machine could not be asked.
    """

    name: str
    role: str
    peer_ip: str
    addresses: tuple[str, ...]
    answers: bool
    state: Row
    pods: int | None
    bad_pods: int | None
    usage: Usage | None


@dataclass(frozen=True)
class Link:
    """The tunnel between two nodes.

    ``handshake``: seconds since the last one, ``milliseconds``: of the slowest ping; None when there is none. ``lost``
    of the ``sent`` probes: pings of both directions and families, small and of the full MTU. ``state``: "ok", "lossy",
    "down" or "unknown".
    """

    ends: tuple[str, str]
    handshake: int | None
    milliseconds: float | None
    lost: int
    sent: int
    state: str


@dataclass(frozen=True)
class Version:
    """``until``: the last day of its support (ISO 8601), "" where that is not known; ``days`` are left until then."""

    component: str
    version: str
    where: str
    until: str = ""
    days: int | None = None


@dataclass(frozen=True)
class Credential:
    """``kind``: "certificate", "person" or "token". Days since it was made and until it expires; tokens do not.

    ``clients``: UNIT@NODE → which version it uses, as in ``tokens.status``.
    """

    name: str
    kind: str
    user: str
    age_days: int
    days_left: int | None
    overlap: bool
    clients: Mapping[str, str]


@dataclass(frozen=True)
class Backup:
    """``created`` and ``verified``: RFC 3339. Sizes in bytes. ``fault``: why it can't be relied on, ``note``: why it is
    not restored by default; "" when nothing is wrong. ``kept``: by which rules of retention.
    """

    name: str
    created: str
    revision: int
    size: int
    stored_size: int
    verified: str | None
    fault: str
    note: str
    kept: tuple[str, ...]
    drill: Drill | None


@dataclass(frozen=True)
class Deploy:
    """A deploy to one node."""

    node: str
    entry: Entry


@dataclass(frozen=True)
class Report:
    """Everything. ``time``: RFC 3339. ``api``: its version, "" when it does not answer; ``not_ready``: what /readyz
    finds fault with. ``services`` is None when they can't be listed. Newest first: ``backups``, ``deploys``.
    """

    cluster: str
    time: str
    smallkube: str
    api: str
    not_ready: tuple[str, ...]
    etcd: Etcd | None
    nodes: tuple[Machine, ...]
    links: tuple[Link, ...]
    services: tuple[Service, ...] | None
    pods: tuple[Pod, ...]
    versions: tuple[Version, ...]
    credentials: tuple[Credential, ...]
    backups: tuple[Backup, ...]
    deploys: tuple[Deploy, ...]
    findings: tuple[Finding, ...]


def links(inventory: Inventory, facts: Mapping[str, HostFacts], keys: Mapping[int, str]) -> Iterator[Link]:
    """One for each pair of nodes. ``facts``: of the nodes that answered; ``keys``: index → key in WireGuard."""
    nodes = inventory.nodes
    for position, one in enumerate(nodes):
        for other in nodes[position + 1 :]:
            pairs = [(facts[a.name], b) for a, b in ((one, other), (other, one)) if a.name in facts]
            yield _link(inventory, (one.name, other.name), pairs, keys)


def _link(
    inventory: Inventory, ends: tuple[str, str], pairs: list[tuple[HostFacts, Node]], keys: Mapping[int, str]
) -> Link:
    plan = inventory.addressing
    handshakes = [found.handshake_age(keys.get(peer.index, "")) for found, peer in pairs]
    age = min((each for each in handshakes if each is not None), default=None)
    asked = [(found, address) for found, peer in pairs for address in (plan.host6(peer.index), plan.host4(peer.index))]
    small = [found.ping.get(address) for found, address in asked]
    probes = [*small, *(found.mtu.get(address) for found, address in asked)]
    answered = [each for each in small if each is not None and isfinite(each)]
    lost = probes.count(None)
    if not probes:
        state = "unknown"
    elif age is None or age > MAX_HANDSHAKE_SECONDS or lost == len(probes):
        state = "down"
    else:
        state = "lossy" if lost else "ok"
    return Link(ends, age, max(answered, default=None), lost, len(probes), state)


def finding(severity: str, text: str, names: Iterable[str], primary: str) -> Finding:
    """A line of ``cluster.status`` with the command that it names or that belongs to it. ``names``: of the nodes."""
    subject, colon, rest = text.partition(": ")
    if not colon or subject not in names:
        subject, rest = "", text
    if named := _COMMAND.search(rest):
        return Finding(severity, subject, rest[: named.start()] + rest[named.end() :], named[1])
    node = subject or primary
    commands = (command for begin, command in _COMMANDS if re.match(begin, rest))
    return Finding(severity, subject, rest, next(commands, "").format(node=node, primary=primary))


def unanswered(name: str, message: str, hint: str | None) -> Finding:
    """A machine that does not answer; ``hint`` as the error has it."""
    named = re.search(r"inv [a-z][^;,()`]*", hint or "")
    command = named[0].strip() if named else f"inv deploy.status --node {name}"
    return Finding(PROBLEM, name, f"does not answer: {message}", command)


def of_versions(versions: Iterable[Version]) -> Iterator[Finding]:
    """Whose support ends."""
    for each in versions:
        if each.days is not None and each.days <= SOON:
            name = f"{each.component} {each.version}"
            text = f"ends on {each.until}" if each.days >= 0 else f"ended on {each.until}: no more security updates"
            command = "inv cluster.upgrade-check"
            if each.component == "NixOS":
                text, command = f"{text}; set cluster.nixos to a newer release", "inv nix.render --update-lock"
            yield Finding(WARNING, "", f"the support of {name} {text}", command)


def of_machines(machines: Iterable[Machine]) -> Iterator[Finding]:
    """What lacks memory or room on a disk, and pods that are not ready."""
    for each in machines:
        use = each.usage
        sizes = {"memory": (use.memory, use.memory_free), "/nix/store": (use.store, use.store_free)} if use else {}
        if use:
            sizes["/var/lib"] = (use.state, use.state_free)
        on_it = f"inv nodes.exec --node {each.name} --"
        commands = {"memory": f"{on_it} systemd-cgtop --iterations=1 --batch"}
        commands["/nix/store"] = f"inv nodes.gc --node {each.name}"
        for name, (total, free) in sizes.items():
            if free < total * FULL:
                command = commands.get(name, f"{on_it} du --max-depth=2 /var/lib")
                text = f"{name}: {free >> 10} of {total >> 10} MiB are free"
                yield Finding(WARNING, each.name, text, command)
        if each.bad_pods:
            text = f"{each.bad_pods} of {each.pods} pods are not ready"
            yield Finding(WARNING, each.name, text, "kubectl get pods --all-namespaces --output=wide")


def of_backups(backups: Iterable[Backup], today: date) -> Iterator[Finding]:
    """Damaged ones, failed drills, and a drill that is due."""
    drilled: list[str] = []
    for each in backups:
        if each.fault:
            yield Finding(PROBLEM, each.name, f"backup: {each.fault}", "inv etcd.backup")
        if each.drill and each.drill.fault:
            text = f"its drill of {each.drill.time[:10]} failed: {each.drill.fault}"
            yield Finding(PROBLEM, each.name, text, f"inv etcd.drill --name {each.name}")
        if each.drill and not each.drill.fault:
            drilled.append(each.drill.time[:10])
    if not drilled or max(drilled) < (today - timedelta(days=DRILL_DAYS)).isoformat():
        last = f"since {max(drilled)}" if drilled else "from this machine"
        yield Finding(WARNING, "", f"no backup was restored in a drill {last}", "inv etcd.drill")
