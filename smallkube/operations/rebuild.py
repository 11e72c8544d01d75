"""A new machine in the place of a primary that is lost: the same secrets, the same cluster, workers that carry on.

etcd gets its data after the system was built and before it is activated. With `deploy` and `etcd.restore`, one after
the other, the API server would show an empty cluster in between, and every kubelet would end its pods.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.polling import wait_until
from smallkube.deploy.plan import Goal, Options
from smallkube.etcd import catalog, restore
from smallkube.etcd.record import Record
from smallkube.etcd.status import SCRIPTS
from smallkube.etcd.stream import decrypted
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.kube import kubectl
from smallkube.operations.engine import Operation, Runbook, Step
from smallkube.remote import scan
from smallkube.remote.scan import Scanned
from smallkube.secrets import transaction
from smallkube.secrets.transaction import changing_keys

MARK = "/var/lib/smallkube/etcd-seeded"
"""On the primary: the name of the backup that its etcd began with."""
_UNPACK_SECONDS = 1800


def is_back(found: kubectl.Api, name: str, began: datetime) -> bool:
    """Whether the node called ``name`` in the cluster is Ready, and has renewed its lease since ``began``.

    What the backup says of it is old.
    """
    member, lease = (found.members or {}).get(name), found.leases.get(name)
    return bool(member and member.ready and lease and lease.renewed >= began)


def choose(cluster: Cluster, backup: str | None) -> tuple[Record, Scanned]:
    """The backup of this name, by default the newest, and the host key that the machine shows.

    Raises UsageError without a backup, SmallkubeError without an answer.
    """
    record = catalog.of(cluster).find(backup)
    restore.check(cluster, record)
    primary = cluster.inventory.primary
    (scanned,) = scan.scan(cluster.workspace, [primary], 10, lambda _node, _outcome: None)
    if scanned.state is scan.Scan.FAILED:
        raise SmallkubeError(f"its host key can't be read: {scanned.reason}", where=primary.name)
    return record, scanned


@dataclass
class Rebuild(Runbook):
    """From ``record``, on the machine that shows the host key ``scanned``; its nodes are Ready within ``seconds``.

    ``backup`` is what etcd began with, which an earlier run may have chosen. ``unrestarted``: worker → why its clients
    of the API server were not restarted.
    """

    record: Record
    scanned: Scanned
    seconds: int
    unrestarted: dict[str, str] = field(default_factory=dict)
    _system: str = field(init=False)
    _deployed: datetime = field(init=False)

    def operation(self) -> Operation:
        """The steps; each may be repeated, and all of them are."""
        record, name, key = self.record, self.primary.name, self.new_key
        workers = ", ".join(node.name for node in self.inventory.workers)
        trust = Step(f"trust {name}'s new host key {key}", self._trust)
        restart = Step(f"restart kubelet, kube-proxy and CoreDNS on {workers}", self._restart_clients)
        steps = (
            Step(
                f"verify {record.name}, taken {record.created}: later changes are lost",
                partial(self.verify_backup, record.name),
            ),
            *((trust,) if key else ()),
            Step(f"verify that etcd on {name} has no other data", self._inspect),
            Step(f"encrypt what {name} reads to its host key; generate what is missing in keys/", self.update_keys),
            Step(f"build {name}'s system there, without activating it", self._build),
            Step(f"restore the backup into {restore.DATA_DIR} there, its revisions raised by 1000000000", self._seed),
            Step(f"deploy {name}; where its address has changed, all nodes in lockstep", self._deploy),
            *((restart,) if workers else ()),
            Step(f"wait until all nodes are Ready ({self.seconds} s at most)", self._await),
        )
        return Operation(steps, has_primary=False)

    @property
    def new_key(self) -> str:
        """The fingerprint of a host key that is not in keys/, "" when it is there."""
        known = self.scanned.state is scan.Scan.SAME
        return self.scanned.key.fingerprint if self.scanned.key and not known else ""

    def check_fingerprint(self, expected: str) -> None:
        """Raise UsageError unless the machine's host key has the fingerprint that its console shows."""
        if self.scanned.key and self.scanned.key.fingerprint != expected:
            hint = "compare with ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub on its console"
            found = f"it shows {self.scanned.key.fingerprint}, not {expected}"
            raise UsageError(found, where=self.primary.name, hint=hint)

    @property
    def primary(self) -> Node:
        return self.inventory.primary

    def _trust(self) -> None:
        with changing_keys(self.cluster.workspace):
            transaction.commit(self.cluster.workspace, scan.files([self.scanned]))

    def _inspect(self) -> None:
        with self.connect(self.primary) as primary:
            self._note(primary.run_checked(SCRIPTS.sent("seed", "look", restore.DATA_DIR, MARK)).text)

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
        assert self.master
        record = self.record
        about = (str(record.size), record.snapshot_sha256, " ".join(map(str, record.minor)))
        arguments = ("seed", restore.DATA_DIR, MARK, record.name, self._system, *about)
        file = catalog.folder_of(self.cluster) / record.file
        with decrypted(file, self.master) as stream, self.connect(self.primary) as primary:
            reply = primary.run(SCRIPTS.sent("seed", *arguments, timeout=_UNPACK_SECONDS), source=stream)
        if not reply.ok:
            raise SmallkubeError(f"the backup was not restored: {reply.last_line}", where=primary.where)
        self._note(reply.text)

    def _deploy(self) -> None:
        """When the new machine has another address, all nodes are deployed in lockstep."""
        self.deploy([self.primary], options=Options(drain=False, with_peers=True))
        self._deployed = datetime.now(UTC)

    def _restart_clients(self) -> None:
        self.unrestarted = restore.restart_clients(self.inventory.workers, self.connect)

    def _await(self) -> None:
        def missing() -> list[str]:
            try:
                with self.connect(self.primary) as primary:
                    found = kubectl.read(primary)
            except SmallkubeError:
                found = kubectl.Api()
            names = {node.name: self.inventory.addressing.node_host(node.index) for node in self.inventory.nodes}
            return [name for name, host in names.items() if not is_back(found, host, self._deployed)]

        hint = "inv cluster.status says more; run the same command again"
        wait_until(missing, self.seconds, f"{self.primary.name} is rebuilt, but not Ready", hint=hint)
