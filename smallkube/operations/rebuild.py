"""A new machine in the place of a primary that is lost: the same secrets, the same cluster, workers that carry on.

etcd gets its data after the system was built and before it is activated. With `deploy` and `etcd.restore`, one after
the other, the API server would show an empty cluster in between, and every kubelet would end its pods.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from smallkube.core.checks import failed
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.polling import wait_until
from smallkube.deploy.plan import Goal, Options
from smallkube.deploy.report import Report
from smallkube.etcd import backup, catalog, restore, verify
from smallkube.etcd.record import Record
from smallkube.etcd.stream import decrypted
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.kube import kubectl
from smallkube.operations.engine import Operation, Step, update_keys
from smallkube.operations.machines import script
from smallkube.remote.host import Connect
from smallkube.secrets import host_keys, transaction
from smallkube.secrets.age import Master
from smallkube.secrets.host_keys import Scanned
from smallkube.secrets.transaction import changing_keys

NAME = "rebuild"
MARK = "/var/lib/smallkube/etcd-seeded"
"""On the primary: the name of the backup that its etcd began with."""
WITH_PEERS = Options(drain=False, with_peers=True)
"""When the new machine has another address, all nodes are deployed in lockstep."""
_UNPACK_SECONDS = 1800


@dataclass(frozen=True)
class Plan:
    """``scanned``: the host key that the machine shows."""

    record: Record
    scanned: Scanned

    @property
    def new_key(self) -> str:
        """The fingerprint of a host key that is not in keys/, "" when it is there."""
        known = self.scanned.state is host_keys.Scan.SAME
        return self.scanned.key.fingerprint if self.scanned.key and not known else ""


def make(cluster: Cluster, backup: str | None) -> Plan:
    """From the backup of this name, by default the newest; asks the machine for its host key.

    Raises UsageError without a backup, SmallkubeError without an answer.
    """
    record = catalog.read(catalog.folder_of(cluster)).find(backup)
    restore.check(cluster, record)
    primary = cluster.inventory.primary
    (scanned,) = host_keys.scan(cluster.workspace, [primary], 10, lambda _node, _outcome: None)
    if scanned.state is host_keys.Scan.FAILED:
        raise SmallkubeError(f"its host key can't be read: {scanned.reason}", where=primary.name)
    return Plan(record, scanned)


def check_fingerprint(scanned: Scanned, expected: str) -> None:
    """Raise UsageError unless the machine's key has the fingerprint that its console shows."""
    if scanned.key and scanned.key.fingerprint != expected:
        hint = "compare with ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub on its console"
        raise UsageError(f"it shows {scanned.key.fingerprint}, not {expected}", where=scanned.node.name, hint=hint)


def is_back(found: kubectl.Api, name: str, began: datetime) -> bool:
    """Whether the node called ``name`` in the cluster is Ready, and has renewed its lease since ``began``."""
    member, lease = (found.members or {}).get(name), found.leases.get(name)
    return bool(member and member.ready and lease and lease.renewed >= began)


@dataclass
class Rebuild:
    """What it takes to carry out a plan; ``seconds``: how long all nodes may take to be Ready.

    ``backup``: what etcd began with, which an earlier run may have chosen; ``unrestarted``: worker → why its clients of
    the API server were not restarted.
    """

    cluster: Cluster
    plan: Plan
    master: Master
    connect: Connect
    deploy: Callable[..., Sequence[Report]]
    seconds: int
    backup: str = ""
    unrestarted: dict[str, str] = field(default_factory=dict)
    _system: str = field(init=False)
    _deployed: datetime = field(init=False)

    def operation(self) -> Operation:
        """The steps; each may be repeated, and all of them are."""
        record, name, key = self.plan.record, self.primary.name, self.plan.new_key
        workers = ", ".join(node.name for node in self.cluster.inventory.workers)
        trust = Step(f"trust {name}'s new host key {key}", self._trust)
        restart = Step(f"restart kubelet, kube-proxy and CoreDNS on {workers}", self._restart_clients)
        steps = (
            Step(f"verify {record.name}, taken {record.created}: later changes are lost", self._verify),
            *((trust,) if key else ()),
            Step(f"verify that etcd on {name} has no other data", self._inspect),
            Step(
                f"encrypt what {name} reads to its host key; generate what is missing in keys/",
                lambda: update_keys(self.cluster),
            ),
            Step(f"build {name}'s system there, without activating it", self._build),
            Step(f"restore the backup into {restore.DATA_DIR} there, its revisions raised by 1000000000", self._seed),
            Step(f"deploy {name}; where its address has changed, all nodes in lockstep", self._deploy),
            *((restart,) if workers else ()),
            Step(f"wait until all nodes are Ready ({self.seconds} s at most)", self._await),
        )
        return Operation(NAME, steps, has_primary=False)

    @property
    def primary(self) -> Node:
        return self.cluster.inventory.primary

    def _verify(self) -> None:
        with backup.locked(catalog.folder_of(self.cluster)) as there:
            (check,) = verify.verify(there, [self.plan.record.name], self.master, lambda _: None)
        if failed([check]) or check.check != "snapshot":
            hint = "inv etcd.list shows others; nothing was changed"
            raise SmallkubeError(check.detail, where=self.plan.record.name, hint=hint)

    def _trust(self) -> None:
        with changing_keys(self.cluster.workspace):
            transaction.commit(self.cluster.workspace, host_keys.files([self.plan.scanned]))

    def _inspect(self) -> None:
        with self.connect(self.primary) as primary:
            self._note(primary.run_checked(script("seed", "look", restore.DATA_DIR, MARK)).text)

    def _note(self, found: str) -> None:
        """``found``: what seed.sh printed. Raises UsageError when the data there was not restored by a rebuild."""
        word, _, self.backup = found.strip().partition(" ")
        if word == "data":
            message = f"etcd has data in {restore.DATA_DIR} already: it is not a new machine"
            raise UsageError(message, where=self.primary.name, hint="inv etcd.restore puts a backup in its place")

    def _build(self) -> None:
        if not self.backup:
            (report,) = self.deploy([self.primary], goal=Goal.BUILD)
            self._system = report.system

    def _seed(self) -> None:
        if self.backup:
            return
        record = self.plan.record
        about = (str(record.size), record.snapshot_sha256, " ".join(map(str, record.minor)))
        arguments = ("seed", restore.DATA_DIR, MARK, record.name, self._system, *about)
        file = catalog.folder_of(self.cluster) / record.file
        with decrypted(file, self.master) as stream, self.connect(self.primary) as primary:
            reply = primary.run(script("seed", *arguments, timeout=_UNPACK_SECONDS), source=stream)
        if not reply.ok:
            raise SmallkubeError(f"the backup was not restored: {reply.last_line}", where=primary.where)
        self._note(reply.text)

    def _deploy(self) -> None:
        self.deploy([self.primary], options=WITH_PEERS)
        self._deployed = datetime.now(UTC)

    def _restart_clients(self) -> None:
        self.unrestarted = restore.restart_clients(self.cluster.inventory.workers, self.connect)

    def _await(self) -> None:
        """What the backup says of a node is old: its kubelet must have renewed its lease since the deploy."""
        wait_until(self._not_back, self.seconds, self._not_ready)

    def _not_back(self) -> list[str]:
        try:
            with self.connect(self.primary) as primary:
                found = kubectl.read(primary)
        except SmallkubeError:
            found = kubectl.Api()
        hosts = {
            node.name: self.cluster.inventory.addressing.node_host(node.index) for node in self.cluster.inventory.nodes
        }
        return [name for name, known_as in hosts.items() if not is_back(found, known_as, self._deployed)]

    def _not_ready(self, missing: str) -> SmallkubeError:
        hint = "inv cluster.status says more; run the same command again"
        return SmallkubeError(f"{self.primary.name} is rebuilt, but not Ready: {missing}", hint=hint)
