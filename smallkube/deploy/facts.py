"""Facts about machines, as ``scripts/facts.sh`` prints them, and how they differ from the workspace."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field

from smallkube.core.errors import SmallkubeError, split_lines
from smallkube.deploy import history
from smallkube.deploy.history import Entry
from smallkube.inventory.models import Inventory, Node
from smallkube.nix.bundle import Bundle
from smallkube.remote import scripts
from smallkube.remote.host import Command, Host, Result
from smallkube.remote.scripts import HOME, Scripts

SCRIPTS = Scripts(Path(__file__).with_name("scripts"))
PROGRESS_SECONDS = 15
"""A connection that does not report the progress of an activation for so long is replaced by a new one."""
PRIMARY_UNITS = ("etcd", "kube-apiserver", "kube-activation", "kube-scheduler", "kube-controller-manager")
NODE_UNITS = ("crio", "kubelet", "kube-proxy", "coredns")

Seconds = Annotated[int, Field(ge=0, lt=1 << 40)]
Number = Annotated[str, Field(pattern="^[0-9]{0,9}$")]


@dataclass(frozen=True)
class Systems:
    """The ``system`` that runs (a store path), and the newest lines of the machine's ``history``."""

    system: str
    history: tuple[str, ...]

    @cached_property
    def effective(self) -> tuple[Entry, ...]:
        """The deploys that took effect, newest first."""
        return history.effective(history.parse(self.history))

    @property
    def last_deploy(self) -> Entry | None:
        return self.effective[0] if self.effective else None

    @property
    def keys(self) -> str:
        """As ``history.keys``."""
        return history.keys(history.parse(self.history))


@dataclass(frozen=True)
class Deployed(Systems):
    """What was deployed to a machine: SHA-256 of its ``peers``.json, its WireGuard ``public_key`` ("": there is none),
    and bundle → SHA-256 of its own ``wireguard`` key. ``rendered``: lines of the bundles' files of the cluster, as
    BUNDLE/FILE:LINE. ``own_keys``: its WireGuard keys.
    """

    peers: str
    public_key: str
    wireguard: dict[str, str]
    rendered: tuple[str, ...]
    own_keys: tuple[str, ...]


@dataclass(frozen=True)
class DeployFacts(Systems):
    """What a deploy has to know before it changes anything.

    ``profile``: the system that boots next, with the number ``generation``. Sizes in KiB, ``clock`` in seconds since
    1970. ``failed``: units; ``armed``: units of rollbacks that are armed.
    """

    profile: str
    generation: str
    has_bundle: bool
    has_scripts: bool
    host_key: str
    clock: Seconds
    store_free: int
    state_free: int
    failed: frozenset[str]
    armed: tuple[str, ...]


@dataclass(frozen=True)
class HostFacts(Systems):
    """What checks compare with inventory and policy.

    ``profile``, ``generation``, ``clock``: as in DeployFacts. ``bridge``: the addresses of brkube. ``ping``, ``mtu``:
    address → milliseconds of a small and of a full-sized packet, None when it is lost. ``handshakes``: WireGuard key →
    time of the last one, 0 when there was none. ``secrets``: name under /run/agenix → "MODE OWNER GROUP".
    ``readable``: which files of the bundle the host key decrypts, None without age or if it was not tried. ``etcd``:
    "healthy", what is wrong, or "". ``units``: from systemctl(1). ``sources``: address of a peer → address from which
    the tunnel sends to it. ``dropping``: "FAMILY TABLE CHAIN" of those whose policy drops what is forwarded.
    """

    profile: str
    generation: str
    clock: Seconds
    bridge: frozenset[str]
    ping: dict[str, float | None]
    mtu: dict[str, float | None]
    handshakes: dict[str, Seconds]
    tables: frozenset[str]
    secrets: dict[str, str]
    readable: frozenset[str] | None
    etcd: str
    units: str
    sources: dict[str, str]
    dropping: tuple[str, ...]

    def handshake_age(self, key: str) -> int | None:
        """Seconds since the last handshake with the peer that has this public key, None when there was none."""
        time = self.handshakes.get(key)
        return max(0, self.clock - time) if time else None

    @property
    def unit_states(self) -> dict[str, Mapping[str, str]]:
        """Unit's name without suffix → its LoadState, ActiveState, ConditionResult."""
        blocks = (split_lines(block) for block in self.units.split("\n\n"))
        units = [dict(line.split("=", 1) for line in block if "=" in line) for block in blocks]
        return {unit["Id"].removesuffix(".service"): unit for unit in units if "Id" in unit}


@dataclass(frozen=True)
class Progress:
    """How an activation stands.

    ``begun`` is false where the machine knows nothing of this deploy, such as after a restart. ``status`` and
    ``rollback_status`` are switch-to-configuration's exit statuses once it has ended; ``outcome`` is what was decided:
    "confirmed", "rolled back", or "" as long as nothing is. ``held``: it waits to be released (see ``barrier``).
    ``clock`` in microseconds since 1970.
    """

    begun: bool
    status: int | None
    outcome: str
    rollback_status: int | None
    system: str
    failed: frozenset[str]
    log: str
    held: bool = False
    clock: int = 0


@dataclass(frozen=True)
class Generations:
    """``systems``: number → store path; ``current`` boots next."""

    current: Number
    systems: dict[Number, str]

    def find(self, number: str) -> str:
        """The system of that generation, "" for the one before the current. Raises SmallkubeError without it."""
        current = int(self.current or 0)
        previous = [each for each in self.systems if each and int(each) < current]
        found = self.systems.get(number or max(previous, key=int, default=""))
        if found is None:
            raise SmallkubeError(f"there is no generation {number or f'before {self.current}'}")
        return found


def inspection(bundle: Bundle, *lock: str) -> Command:
    """What ``inspected`` reads; needs nothing of ours on the machine.

    ``lock``: owner, nonce and holder of the deploy's lock, which it takes first; it fails when another one holds it.
    """
    what, digests = "locked" if lock else "deploy", (bundle.digest, SCRIPTS.bundle.digest)
    command = SCRIPTS.sent("facts", what, *lock, *digests, title="lock" if lock else "")
    return replace(command, limit=scripts.OUTPUT_LIMIT)


def inspected(host: Host, done: Result) -> DeployFacts:
    """From the answer to ``inspection``. Raises SmallkubeError when the machine is not a NixOS machine."""
    found = scripts.parse(done.text, DeployFacts, "facts", host.where)
    if not found.system.startswith("/nix/store/"):
        raise SmallkubeError("not a NixOS machine: it has no /run/current-system")
    return found


def of_deploy(host: Host, bundle: Bundle) -> DeployFacts:
    """Both at once, without the lock."""
    return inspected(host, host.run_checked(inspection(bundle)))


def deployed(host: Host) -> Deployed:
    """Needs nothing of ours on the machine."""
    return scripts.read(host, SCRIPTS.sent("facts", "deployed", str(host.node.index)), Deployed)


def of_host(host: Host, inventory: Inventory, bundle_digest: str = "") -> HostFacts:
    """Also pings every other node through the tunnel, in both families and with full-sized packets.

    Without a bundle it is not tried which files the host key decrypts, of which each costs a process.
    """
    plan, own = inventory.addressing, host.node.index
    addresses = {node.index: (plan.host6(node.index), plan.host4(node.index)) for node in inventory.nodes}
    after = [each for index, pair in addresses.items() if index > own for each in pair]
    before = [each for index, pair in addresses.items() if index < own for each in pair]
    units = [f"{unit}.service" for unit in units_of(host.node)]
    arguments = ("host", str(inventory.cluster.network.mtu), bundle_digest, *units, "--", *after, "--", *before)
    return scripts.read(host, SCRIPTS.sent("facts", *arguments, timeout=120), HostFacts)


def progress(host: Host, nonce: str, tenths: int = 0) -> Progress:
    """How the activation of this deploy stands: once it has ended or is held, or after ``tenths`` of a second."""
    command = SCRIPTS.pushed("facts", "progress", nonce, str(tenths), title="progress", timeout=PROGRESS_SECONDS)
    return scripts.read(host, command, Progress)


def generations(host: Host) -> Generations:
    """The generations that the machine has."""
    return scripts.read(host, SCRIPTS.sent("facts", "generations"), Generations)


def units_of(node: Node) -> tuple[str, ...]:
    """The services that ``node`` is to run."""
    return (*PRIMARY_UNITS, *NODE_UNITS) if node.role == "primary" else NODE_UNITS


@dataclass(frozen=True)
class Changes:
    """Files of the bundle against those deployed last; ``known`` is False where there is nothing to compare with."""

    known: bool
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def secrets(self) -> tuple[str, ...]:
        """The encrypted files among the added and changed ones."""
        return tuple(name for name in (*self.added, *self.changed) if name.endswith(".age"))

    def lines(self) -> list[str]:
        """A line for each file, marked as in a diff."""
        marked = [("+", self.added), ("~", self.changed), ("-", self.removed)]
        return [f"{mark} {name}" for mark, names in marked for name in names]


def changes(host: Host, bundle: Bundle) -> Changes:
    """Compare ``bundle`` with what was deployed to this machine last."""
    deploys = history.effective(history.read(host))
    if not deploys:
        return Changes(known=False)
    folder = f"{HOME}/bundles/{deploys[0].digest}/"
    listing = host.run(Command(("find", folder, "-type", "f", "-exec", "sha256sum", "{}", "+"), title="hash files"))
    if not listing.ok:
        return Changes(known=False)
    lines = (line.partition("  ") for line in split_lines(listing.text))
    there = {name.removeprefix(folder): digest for digest, blanks, name in lines if blanks}
    here = {name: hashlib.sha256(content).hexdigest() for name, content in bundle.files.items()}
    added, removed = sorted(here.keys() - there.keys()), sorted(there.keys() - here.keys())
    changed = sorted(name for name in here.keys() & there.keys() if here[name] != there[name])
    return Changes(True, tuple(added), tuple(changed), tuple(removed))
