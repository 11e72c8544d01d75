"""Putting a backup back on the primary, in the order that loses nothing (etcd.io/docs/v3.6/op-guide/recovery).

The data is restored beside the running etcd. The exchange runs on the primary as a unit of its own: it goes back by
itself when etcd or the API server does not come up, and does not need us to end.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.etcd import host
from smallkube.etcd.catalog import Catalog
from smallkube.etcd.programs import minor
from smallkube.etcd.record import Record
from smallkube.etcd.stream import opened
from smallkube.inventory.models import Node
from smallkube.remote import fleet
from smallkube.remote.command import Command, Result
from smallkube.remote.host import Connect, Host
from smallkube.secrets.age import Master

RESTARTED = ("kubelet.service", "kube-proxy.service", "coredns.service")
"""They watch the API server from revisions that are no more."""
_UNPACK_SECONDS = 1800
_STOP_SECONDS = 600
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """What is to be put back, where; ``seconds``: how long etcd and the API server may each take to come up."""

    record: Record
    primary: Node
    nodes: tuple[Node, ...]
    seconds: int
    any_key: bool

    @property
    def steps(self) -> tuple[str, ...]:
        """What will be done, in words."""
        record = self.record
        return (
            f"decrypt {record.name} (revision {record.revision}) and send it to {self.primary.name}",
            f"restore it beside {host.DATA_DIR}, its revisions raised by 1000000000 and marked compacted",
            "stop kube-scheduler, kube-controller-manager, kube-apiserver and etcd",
            f"exchange {host.DATA_DIR}; the data of before stays beside it as {host.DATA_DIR}.before-TIME",
            f"start etcd and kube-apiserver ({self.seconds} s each at most; else go back), then the others",
            f"restart kubelet, kube-proxy and CoreDNS on {', '.join(node.name for node in self.nodes)}",
        )


@dataclass(frozen=True)
class Outcome:
    """``old`` is where the data of before is, "" when there was none; ``bumped``: clients are told to list anew.

    ``unrestarted``: nodes on which kubelet, kube-proxy and CoreDNS could not be restarted, and why.
    """

    old: str
    bumped: bool
    unrestarted: dict[str, str]


def check_keys(record: Record, here: Sequence[tuple[str, str]]) -> None:
    """Raise UsageError unless all encryption keys that ``record`` needs are among ``here`` (names and base64 texts)."""
    hashes = {hashlib.sha256(secret.encode()).hexdigest() for _, secret in here}
    missing = [key.name for key in record.encryption_keys if key.sha256 not in hashes]
    if missing:
        raise UsageError(
            f"its Secrets can't be read without {', '.join(missing)}, which this file does not have",
            where="keys/EncryptionConfiguration.yaml.age",
            hint=f"bring it back from the git history of {record.created[:10]} and deploy it, or give"
            " --without-encryption-key",
        )


def check_cluster(record: Record, cluster: str, *, other: bool) -> None:
    """Raise UsageError when the backup is of another cluster, unless that is meant, or known to be bad."""
    if record.problem:
        raise UsageError(f"is not sound: {record.problem}", where=record.name, hint="inv etcd.list shows others")
    if record.cluster != cluster and not other:
        hint = "--other-cluster, if you mean it"
        raise UsageError(f"is of the cluster {record.cluster}, not {cluster}", where=record.name, hint=hint)


def execute(plan: Plan, existing: Catalog, master: Master, connect: Connect, step: Callable[[str], object]) -> Outcome:
    """Do it. Raises SmallkubeError: before the exchange nothing was touched, and after it the primary went back.

    Once all was sent, the primary ends it by itself: whatever interrupts us only leaves out the last step.
    """
    with connect(plan.primary) as primary:
        step("send and restore beside the running etcd")
        begun = _begin(plan, existing, master, primary)
    old = _await(plan, begun["run"], connect, step)
    step(f"restart kubelet, kube-proxy and CoreDNS on {len(plan.nodes)} nodes")
    return Outcome(old, begun["bumped"] == "yes", restart_clients(plan.nodes, connect))


def _begin(plan: Plan, existing: Catalog, master: Master, primary: Host) -> dict[str, str]:
    with opened(existing.path(plan.record), master) as stream:
        result = primary.run(_command(plan), source=stream)
    if not result.ok:
        raise SmallkubeError(f"nothing was changed: {result.last_line}", where=primary.where)
    reply = dict(_pairs(result))
    if not {"run", "bumped"} <= reply.keys():
        raise SmallkubeError("the machine's answer can't be understood", where=primary.where)
    return reply


def _command(plan: Plan) -> Command:
    record = plan.record
    keys = () if plan.any_key else tuple(f"{key.name}={key.sha256}" for key in record.encryption_keys)
    arguments = (host.DATA_DIR, str(record.size), record.snapshot_sha256, " ".join(map(str, minor(record.etcd))))
    demands = (host.ENDPOINT, str(plan.seconds), host.ENCRYPTION_CONFIGURATION)
    return host.script("restore", *arguments, *demands, host.text("exchange"), *keys, timeout=_UNPACK_SECONDS)


def _pairs(result: Result) -> Iterator[tuple[str, str]]:
    for line in result.text.splitlines():
        key, _, value = line.partition("=")
        yield key, value


def _await(plan: Plan, run: str, connect: Connect, step: Callable[[str], object]) -> str:
    """Until the primary says how it ended, over a new connection each time one breaks; where the old data is."""
    deadline = time.monotonic() + 6 * plan.seconds + _STOP_SECONDS
    told, lost = 0, ""
    while time.monotonic() < deadline:
        try:
            with connect(plan.primary) as primary:
                while time.monotonic() < deadline:
                    reply = list(_pairs(primary.run_checked(host.script("restore-progress", run))))
                    steps = [value for key, value in reply if key == "step"]
                    for text in steps[told:]:
                        step(text)
                    told = max(told, len(steps))
                    if "running" not in dict(reply):
                        return judge(dict(reply).get("outcome", ""), primary.where)
                    time.sleep(_POLL_SECONDS)
        except Ended:
            raise
        except SmallkubeError as error:
            if error.message != lost:
                step(f"ask again: {error.message}")
            lost = error.message
            time.sleep(_POLL_SECONDS)
    hint = "it ends by itself; inv etcd.status says how etcd is then"
    raise SmallkubeError("can't be asked how the restore ended", where=plan.primary.name, hint=hint)


class Ended(SmallkubeError):
    """The exchange has ended, and not well."""


def judge(outcome: str, where: str) -> str:
    """Where the data of before is, "" when there was none; raises Ended unless the backup is served.

    ``outcome`` is as ``exchange.sh`` writes it, "" when it was cut off.
    """
    word, _, rest = outcome.partition(" ")
    match word:
        case "restored":
            return "" if rest == "none" else rest
        case "untouched":
            raise Ended(f"nothing was changed: {rest}", where=where)
        case "back":
            hint = "the restored data was removed; journalctl -u etcd -u kube-apiserver there says more"
            raise Ended(f"{rest}: went back to the data of before, which is served again", where=where, hint=hint)
        case "stuck":
            raise Ended(f"etcd or the API server does not run: {rest}", where=where, hint="see its journal")
    raise Ended(
        "the restore was cut off, as by a restart of the machine",
        where=where,
        hint=f"look at {host.DATA_DIR} and {host.DATA_DIR}.before-* there, inv etcd.status, then restore again",
    )


def restart_clients(nodes: Sequence[Node], connect: Connect) -> dict[str, str]:
    """Restart what watches the API server on ``nodes``; node → why it was not."""

    def restart(node: Node) -> None:
        with connect(node) as machine:
            machine.run_checked(Command(("systemctl", "try-restart", *RESTARTED), timeout=180))

    outcomes = fleet.run([nodes], restart)
    return {outcome.node.name: outcome.error.message for outcome in outcomes if outcome.error}
