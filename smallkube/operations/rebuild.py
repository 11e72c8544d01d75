"""A new machine in the place of a primary that is lost: the same secrets, the same cluster, workers that carry on.

etcd gets its data after the system was built and before it is activated. With `deploy` and `etcd.restore`, one after
the other, the API server would show an empty cluster in between, and every kubelet would end its pods.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.deploy.plan import Goal, Options
from smallkube.deploy.report import Watcher
from smallkube.deploy.rollout import roll_out
from smallkube.etcd import catalog, host, restore, run, verify
from smallkube.etcd.programs import minor
from smallkube.etcd.record import Record
from smallkube.etcd.stream import opened
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.kube import kubectl
from smallkube.remote.command import Command
from smallkube.remote.ssh import SshHost
from smallkube.secrets import generate, rekey, scan
from smallkube.secrets.age import Master
from smallkube.secrets.scan import Scanned
from smallkube.secrets.store import changing_keys

MARK = "/var/lib/smallkube/etcd-seeded"
"""On the primary: the name of the backup that its etcd began with."""
WITH_PEERS = Options(drain=False, with_peers=True)
"""When the new machine has another address, all machines learn of it together."""
_SCRIPT = Path(__file__).with_name("scripts") / "seed.sh"
_UNPACK_SECONDS = 1800
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """``scanned``: the host key that the machine shows; ``seconds``: how long all nodes may take to be Ready."""

    record: Record
    primary: Node
    workers: tuple[Node, ...]
    scanned: Scanned
    seconds: int

    @property
    def new_key(self) -> bool:
        return self.scanned.state is not scan.State.SAME

    @property
    def steps(self) -> tuple[str, ...]:
        """What will be done, in words."""
        name, key = self.primary.name, self.scanned.key
        fingerprint = key.fingerprint if key else ""
        trust = (f"trust {name}'s new host key {fingerprint}",) if self.new_key else ()
        others = ", ".join(node.name for node in self.workers)
        return (
            f"verify {self.record.name}, taken {self.record.created}: all that was changed since is lost",
            *trust,
            f"encrypt what {name} reads to its host key; make what is missing in keys/",
            f"build {name}'s system there, and activate nothing yet",
            f"restore the backup into {host.DATA_DIR} there, its revisions raised by 1000000000",
            f"deploy {name}; where its address has changed, all machines together",
            *((f"restart kubelet, kube-proxy and CoreDNS on {others}",) if others else ()),
            f"wait until all nodes are Ready ({self.seconds} s at most)",
        )


@dataclass(frozen=True)
class Outcome:
    """``backup`` is what etcd began with, which an earlier run may have chosen; ``unrestarted``: worker → why not."""

    backup: str
    unrestarted: dict[str, str]


def check_fingerprint(scanned: Scanned, expected: str) -> None:
    """Raise UsageError unless the machine's key has the fingerprint that its console shows."""
    if scanned.key and scanned.key.fingerprint != expected:
        hint = "compare with ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub on its console"
        raise UsageError(f"it shows {scanned.key.fingerprint}, not {expected}", where=scanned.node.name, hint=hint)


def is_back(found: kubectl.Api, name: str, began: datetime) -> bool:
    """Whether the node called ``name`` in the cluster is Ready, and has given a sign of life since ``began``."""
    member, lease = (found.members or {}).get(name), found.leases.get(name)
    return bool(member and member.ready and lease and lease.renewed >= began)


@dataclass(frozen=True)
class Rebuild:
    """What it takes to carry out a plan."""

    cluster: Cluster
    master: Master
    watcher: Watcher

    def execute(self, plan: Plan, step: Callable[[str], object]) -> Outcome:
        """Carry out ``plan``. Raises SmallkubeError at a step that failed: the same again goes on from there."""
        step("verify the backup")
        self._verify(plan.record)
        with changing_keys(self.cluster.workspace):
            scan.store(self.cluster.workspace, [plan.scanned] if plan.new_key else [])
        step("look at the machine")
        found = self._look(plan)
        step("encrypt to its host key")
        self._rekey()
        if not found:
            step("build its system")
            (report,) = roll_out(self.cluster, [plan.primary], self.watcher, goal=Goal.BUILD)
            step("restore the backup")
            found = self._seed(plan, report.system)
        step("deploy")
        roll_out(self.cluster, [plan.primary], self.watcher, WITH_PEERS)
        began = datetime.now(UTC)
        step("restart who watches the API server")
        unrestarted = restore.restart_clients(plan.workers, lambda node: SshHost(self.cluster.workspace, node))
        step("wait until all nodes are Ready")
        self._await(plan, began)
        return Outcome(found, unrestarted)

    def _verify(self, record: Record) -> None:
        with run.locked(catalog.folder_of(self.cluster)) as there:
            (finding,) = verify.verify(there, [there.find(record.name)], self.master, datetime.now(UTC))
        if finding.result == "failed" or finding.proof != "snapshot":
            hint = "inv etcd.list shows others; nothing was changed"
            raise SmallkubeError(finding.detail, where=record.name, hint=hint)

    def _look(self, plan: Plan) -> str:
        """The backup that an earlier run has restored, "" when there is no data yet."""
        with SshHost(self.cluster.workspace, plan.primary) as primary:
            found = primary.run_checked(_script("look")).text.strip()
        return self._judged(found, plan.primary)

    def _judged(self, found: str, primary: Node) -> str:
        word, _, name = found.partition(" ")
        if word == "data":
            raise UsageError(
                f"etcd has data in {host.DATA_DIR} already: it is not a new machine",
                where=primary.name,
                hint="inv etcd.restore puts a backup in its place",
            )
        return name

    def _rekey(self) -> None:
        with changing_keys(self.cluster.workspace):
            planned = rekey.plan(self.cluster)
            if planned.failed:
                file, why = next(iter(planned.failed.items()))
                raise SmallkubeError(why, where=f"keys/{file}", hint="restore it from git")
            rekey.act(self.cluster, planned)
            generate.act(self.cluster, generate.plan(self.cluster))

    def _seed(self, plan: Plan, system: str) -> str:
        record = plan.record
        about = (str(record.size), record.snapshot_sha256, " ".join(map(str, minor(record.etcd))))
        file = catalog.folder_of(self.cluster) / record.file
        with opened(file, self.master) as stream, SshHost(self.cluster.workspace, plan.primary) as primary:
            reply = primary.run(_script("seed", record.name, system, *about), source=stream)
        if not reply.ok:
            raise SmallkubeError(f"the backup was not restored: {reply.last_line}", where=primary.where)
        return self._judged(reply.text.strip(), plan.primary)

    def _await(self, plan: Plan, began: datetime) -> None:
        """What the backup says of a node is old: its kubelet must have been heard since ``began``."""
        deadline = time.monotonic() + plan.seconds
        hosts = {
            node.name: self.cluster.inventory.addressing.node_host(node.index) for node in self.cluster.inventory.nodes
        }
        while waiting := self._silent(plan, hosts, began):
            if time.monotonic() > deadline:
                hint = "inv cluster.status says more; run the same command again"
                raise SmallkubeError(f"{plan.primary.name} is rebuilt, but not Ready: {', '.join(waiting)}", hint=hint)
            time.sleep(_POLL_SECONDS)

    def _silent(self, plan: Plan, hosts: dict[str, str], began: datetime) -> list[str]:
        try:
            with SshHost(self.cluster.workspace, plan.primary) as primary:
                found = kubectl.read(primary)
        except SmallkubeError:
            found = kubectl.Api()
        return [name for name, known_as in hosts.items() if not is_back(found, known_as, began)]


def _script(what: str, *arguments: str) -> Command:
    argv = ("/bin/sh", "-c", _SCRIPT.read_text(), "seed", what, host.DATA_DIR, MARK, *arguments)
    return Command(argv, timeout=_UNPACK_SECONDS if arguments else 60, title="seed")
