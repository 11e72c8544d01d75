"""Restoring a backup on the primary, in the order that loses nothing (etcd.io/docs/v3.6/op-guide/recovery).

The data is restored in a new folder while etcd is running. The swap of the folders runs on the primary as a unit of
its own: it rolls back by itself when etcd or the API server does not start, and ends also without a connection.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.polling import wait_until
from smallkube.etcd.catalog import Catalog
from smallkube.etcd.record import Record
from smallkube.etcd.status import ENCRYPTION_CONFIGURATION, ENDPOINT, SCRIPTS
from smallkube.etcd.stream import decrypted
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.remote import fleet, scripts
from smallkube.remote.host import Command, Connect
from smallkube.secrets import edit, kinds
from smallkube.secrets.age import Master

DATA_DIR = "/var/lib/etcd"
RESTARTED = ("kubelet.service", "kube-proxy.service", "coredns.service")
"""They watch the API server from revisions that no longer exist."""
_UNPACK_SECONDS = 1800
_STOP_SECONDS = 600


@dataclass(frozen=True)
class Plan:
    """What is restored, where; ``seconds``: how long etcd and the API server may each take to start.

    ``any_key``: also when the API server can't decrypt the Secrets afterwards.
    """

    record: Record
    primary: Node
    nodes: tuple[Node, ...]
    seconds: int
    any_key: bool

    @property
    def steps(self) -> tuple[str, ...]:
        """What will be done."""
        record = self.record
        facts = ", ".join(filter(None, (f"revision {record.revision}", record.state)))
        return (
            f"decrypt {record.name} ({facts}) and send it to {self.primary.name}",
            "restore it in a new folder there, its revisions raised by 1000000000 and marked compacted",
            "stop kube-scheduler, kube-controller-manager, kube-apiserver and etcd",
            f"swap {DATA_DIR} for it; the previous data stays in {DATA_DIR}.before-TIME",
            f"start etcd and kube-apiserver ({self.seconds} s each at most; else roll back), then the others",
            f"restart kubelet, kube-proxy and CoreDNS on {', '.join(node.name for node in self.nodes)}",
        )


@dataclass(frozen=True)
class Outcome:
    """``previous`` is where the previous data is, "" when there was none; ``bumped``: clients have to list again.

    ``unrestarted``: nodes on which kubelet, kube-proxy and CoreDNS could not be restarted, and why.
    """

    previous: str
    bumped: bool
    unrestarted: dict[str, str]


@dataclass(frozen=True)
class _Started:
    """What ``restore.sh`` prints."""

    run: str
    bumped: bool


@dataclass(frozen=True)
class _Progress:
    """What ``restore-progress.sh`` prints."""

    steps: list[str]
    running: bool
    outcome: list[str]


def check(cluster: Cluster, record: Record, *, other_cluster: bool = False, any_key: bool = False) -> None:
    """Raise UsageError when the backup is known to be bad, of another cluster, or needs a key that keys/ lacks."""
    name = cluster.inventory.cluster.name
    if record.problem:
        raise UsageError(f"is not sound: {record.problem}", where=record.name, hint="inv etcd.list shows others")
    if record.cluster != name and not other_cluster:
        hint = "pass --other-cluster to restore it anyway"
        raise UsageError(f"is of the cluster {record.cluster}, not {name}", where=record.name, hint=hint)
    if record.encryption_keys and not any_key:
        keys = kinds.encryption_keys(edit.show(cluster, "EncryptionConfiguration.yaml"))
        hashes = {hashlib.sha256(secret.encode()).hexdigest() for _, secret in keys}
        if missing := [key.name for key in record.encryption_keys if key.sha256 not in hashes]:
            raise UsageError(
                f"its Secrets can't be read without {', '.join(missing)}, which this file does not have",
                where="keys/EncryptionConfiguration.yaml.age",
                hint=f"restore it from the git history of {record.created[:10]} and deploy it,"
                " or pass --without-encryption-key",
            )


def execute(plan: Plan, existing: Catalog, master: Master, connect: Connect, step: Callable[[str], object]) -> Outcome:
    """Carry out ``plan``. Raises SmallkubeError: nothing was changed, or the primary rolled back, or neither data runs.

    Once all was sent, the primary completes it by itself: an interruption here only leaves out the last step.
    """
    record = plan.record
    keys = () if plan.any_key else tuple(f"{key.sha256} {key.name}" for key in record.encryption_keys)
    arguments = (DATA_DIR, str(record.size), record.snapshot_sha256, " ".join(map(str, record.minor)))
    settings = (ENDPOINT, str(plan.seconds), ENCRYPTION_CONFIGURATION, SCRIPTS.text("swap-data-dir"))
    with connect(plan.primary) as primary:
        step("send and restore in a new folder")
        command = SCRIPTS.sent("restore", *arguments, *settings, *keys, timeout=_UNPACK_SECONDS)
        with decrypted(existing.folder / record.file, master) as stream:
            result = primary.run(command, source=stream)
        if not result.ok:
            raise primary.error(f"nothing was changed: {result.last_line}")
        started = scripts.parse(result.stdout, _Started, "restore", primary.where)
    previous = previous_data(_wait(plan, started.run, connect, step), plan.primary.name)
    step(f"restart kubelet, kube-proxy and CoreDNS on {len(plan.nodes)} nodes")
    return Outcome(previous, started.bumped, restart_clients(plan.nodes, connect))


def _wait(plan: Plan, run: str, connect: Connect, step: Callable[[str], object]) -> list[str]:
    """How the swap ended, as ``previous_data`` takes it; asked over a new connection each time, which may break."""
    found, lost = _Progress([], running=True, outcome=[]), ""

    def missing() -> list[str]:
        nonlocal found, lost
        shown = len(found.steps)
        try:
            with connect(plan.primary) as primary:
                found = scripts.read(primary, SCRIPTS.sent("restore-progress", run), _Progress)
        except SmallkubeError as error:
            if error.message != lost:
                step(f"retry: {error.message}")
            lost = error.message
            return [lost]
        for line in found.steps[shown:]:
            step(line)
        return ["it is still in progress"] if found.running else []

    hint = "the primary completes it; inv etcd.status shows etcd's state then"
    seconds = 6 * plan.seconds + _STOP_SECONDS
    wait_until(missing, seconds, "how the restore ended is unknown", where=plan.primary.name, hint=hint)
    return found.outcome


def previous_data(outcome: Sequence[str], where: str) -> str:
    """Where the previous data is, "" when there was none; raises SmallkubeError unless the backup is served.

    ``outcome`` has the lines that ``swap-data-dir.sh`` wrote, none when it was interrupted.
    """
    journal = "journalctl -u etcd -u kube-apiserver there shows why"
    match outcome:
        case ["restored", folder]:
            return "" if folder == "none" else folder
        case ["untouched", reason]:
            raise SmallkubeError(f"nothing was changed: {reason}", where=where)
        case ["rolled-back", reason]:
            hint = f"the restored data was removed; {journal}"
            raise SmallkubeError(f"{reason}: rolled back; the previous data is served again", where=where, hint=hint)
        case ["failed", reason]:
            raise SmallkubeError(f"etcd or the API server does not run: {reason}", where=where, hint=journal)
    raise SmallkubeError(
        "the restore was interrupted, as by a restart of the machine",
        where=where,
        hint=f"check {DATA_DIR} and {DATA_DIR}.before-* there, inv etcd.status, then restore again",
    )


def restart_clients(nodes: Sequence[Node], connect: Connect) -> dict[str, str]:
    """Restart what watches the API server on ``nodes``; node → why it was not."""
    command = Command(("systemctl", "try-restart", *RESTARTED), timeout=180)
    return fleet.unanswered(fleet.ask(nodes, connect, lambda machine: machine.run_checked(command)))
