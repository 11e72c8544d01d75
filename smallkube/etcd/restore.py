"""Putting a backup back on the primary, in the order that loses nothing (etcd.io/docs/v3.6/op-guide/recovery).

The data is restored beside the running etcd. The exchange runs on the primary as a unit of its own: it goes back by
itself when etcd or the API server does not come up, and does not need us to end.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from smallkube.errors import SmallkubeError, UsageError
from smallkube.etcd import host
from smallkube.etcd.catalog import Catalog
from smallkube.etcd.programs import minor
from smallkube.etcd.record import Record
from smallkube.etcd.sealed import opened
from smallkube.inventory import Node
from smallkube.remote import fleet
from smallkube.remote.command import Command, Result
from smallkube.secrets.age import Master

UNIT = "smallkube-etcd-restore"
STATE = "/run/smallkube/etcd-restore"
RESTARTED = ("kubelet.service", "kube-proxy.service")
"""They watch the API server from revisions that are no more."""
_UNPACK_SECONDS = 1800
_POLL_SECONDS = 1.0


class Machine(Protocol):
    """Of a Session or a Local, what is used here."""

    where: str

    def run(self, command: Command, *, source: BinaryIO | None = ...) -> Result: ...
    def must(self, command: Command) -> Result: ...


Connect = Callable[[Node], AbstractContextManager[Machine]]


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
            f"restart kubelet and kube-proxy on {', '.join(node.name for node in self.nodes)}",
        )


@dataclass(frozen=True)
class Outcome:
    """``old`` is where the data of before is, "" when there was none; ``bumped``: clients are told to list anew.

    ``unrestarted``: nodes on which kubelet and kube-proxy could not be restarted, and why.
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
    """Do it. Raises SmallkubeError: before the exchange nothing was touched, and after it the primary went back."""
    with connect(plan.primary) as primary:
        step("send and unpack")
        prepared = _prepare(plan, existing, master, primary)
        try:
            _check_deployed_key(plan, prepared, primary.where)
            step("exchange the data")
            _start(plan, prepared["new"][0], primary)
        except BaseException:
            primary.run(Command(("rm", "-rf", prepared["new"][0])))
            raise
    old = _await(plan, connect, step)
    step("restart kubelets")
    return Outcome(old, prepared["bumped"] == ["yes"], _restart(plan, connect))


def _prepare(plan: Plan, existing: Catalog, master: Master, primary: Machine) -> dict[str, list[str]]:
    record = plan.record
    version = " ".join(map(str, minor(record.etcd)))
    facts = (str(record.size), record.snapshot_sha256, version, host.ENCRYPTION_CONFIGURATION)
    command = host.script("restore", host.DATA_DIR, *facts, host.text("exchange"), timeout=_UNPACK_SECONDS)
    with opened(existing.path(record), master) as stream:
        result = primary.run(command, source=stream)
    if not result.ok:
        raise SmallkubeError(f"nothing was changed: {result.last_words}", where=primary.where)
    said: dict[str, list[str]] = {"bumped": []}
    for line in result.text.splitlines():
        key, _, value = line.partition("=")
        said.setdefault(key, []).append(value)
    if "new" not in said:
        raise SmallkubeError("the machine's answer can't be understood", where=primary.where)
    return said


def _check_deployed_key(plan: Plan, prepared: dict[str, list[str]], where: str) -> None:
    lacking = [key.name for key in plan.record.encryption_keys if key.sha256 not in prepared.get("key", [])]
    if lacking and not plan.any_key:
        hint = "inv deploy puts keys/EncryptionConfiguration.yaml.age there"
        raise UsageError(f"its API server does not have the key {', '.join(lacking)}", where=where, hint=hint)


def _start(plan: Plan, new: str, primary: Machine) -> None:
    unit = ("systemd-run", f"--unit={UNIT}", "--collect", "--quiet", "/bin/sh", f"{STATE}/exchange.sh")
    primary.must(Command((*unit, host.DATA_DIR, new, host.ENDPOINT, str(plan.seconds))))


def _await(plan: Plan, connect: Connect, step: Callable[[str], object]) -> str:
    """Until the primary says how it ended, over a connection of its own each time one breaks."""
    deadline = time.monotonic() + 6 * plan.seconds + 300
    told = 0
    while True:
        try:
            with connect(plan.primary) as primary:
                while time.monotonic() < deadline:
                    told = _tell(primary, told, step)
                    ended = primary.run(Command(("cat", f"{STATE}/outcome")))
                    if ended.ok:
                        return _judge(ended.text, primary.where)
                    time.sleep(_POLL_SECONDS)
        except SmallkubeError as error:
            if isinstance(error, Ended) or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)
        if time.monotonic() > deadline:
            hint = f"on {plan.primary.name}: systemctl status {UNIT}; {STATE}/log"
            raise SmallkubeError("unknown how it ended", where=plan.primary.name, hint=hint)


def _tell(primary: Machine, told: int, step: Callable[[str], object]) -> int:
    lines = primary.run(Command(("cat", f"{STATE}/log"))).text.splitlines()
    for line in lines[told:]:
        step(line)
    return max(told, len(lines))


class Ended(SmallkubeError):
    """The exchange has ended, and not well."""


def _judge(outcome: str, where: str) -> str:
    word, _, rest = outcome.partition(" ")
    if word == "restored":
        return "" if rest == "none" else rest
    if word == "back":
        raise Ended(f"went back to the data of before, which runs again: {rest}", where=where)
    raise Ended(f"neither the backup nor the data of before comes up: {rest}", where=where)


def _restart(plan: Plan, connect: Connect) -> dict[str, str]:
    def restart(node: Node) -> None:
        with connect(node) as machine:
            machine.must(Command(("systemctl", "try-restart", *RESTARTED), timeout=180))

    outcomes = fleet.run([plan.nodes], restart)
    return {outcome.node.name: outcome.error.message for outcome in outcomes if outcome.error}
