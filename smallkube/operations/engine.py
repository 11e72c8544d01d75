"""Long operations as lists of steps: what is printed is what runs, and what was interrupted resumes where keys/ says.

A step may be run again. Only a step that changes keys/ can say that it is done, by what is in keys/ then: asking the
machines would race, and could not tell an operation that has ended from one that never began. Under way, the same
command runs the steps after the last one that is done.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from smallkube.core.checks import failed
from smallkube.core.errors import MALFORMED, SmallkubeError, UsageError, split_lines
from smallkube.core.polling import wait_until
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory, Node
from smallkube.remote import fleet, scripts
from smallkube.remote.host import Command, Connect, Host
from smallkube.secrets import generate, kinds, policy, rekey, transaction
from smallkube.secrets.age import Master
from smallkube.secrets.policy import Secret
from smallkube.secrets.transaction import Change, Keys, changing_keys, read_keys

T = TypeVar("T")

REACHED = "verify that every node reaches the API server at its cluster IP, restarting kube-proxy where it does not"
"""Title of the step that runs ``Runbook.await_service``."""

# Message ids of systemd (sd-messages.h): a unit is being stopped, its main process has ended, it has started. The API
# server's unit counts as started when it answers.
_DOWN = frozenset({"de5b426a63be47a7b6ac3eaac82e2f6f", "98e322203f7a4ed290d09fe03c09fe15"})
_UP = "39f53479d3a045ac8e11786248231fbf"


@dataclass(frozen=True)
class Step:
    """``title`` is imperative. ``done``: whether keys/ is as this step leaves it; None where it changes none."""

    title: str
    run: Callable[[], object]
    done: Callable[[Keys], bool] | None = None


Steps = tuple[Step, ...]


@dataclass(frozen=True)
class Operation:
    """``under_way``: by keys/, it was begun and has not ended.

    ``has_primary``: whether a primary can be asked, before it begins and afterwards, how long its API server was down.
    """

    steps: Steps
    under_way: Callable[[Keys], bool] = lambda _: False
    has_primary: bool = True

    def remaining(self, keys: Keys) -> Steps:
        """The steps that are still to be run, all of them where none is under way."""
        if not self.under_way(keys):
            return self.steps
        last = max((number for number, step in enumerate(self.steps) if step.done and step.done(keys)), default=-1)
        return self.steps[last + 1 :]

    def titles(self, keys: Keys) -> tuple[str, ...]:
        """What ``execute`` will do now."""
        return tuple(step.title for step in self.remaining(keys))


def not_abortable(*, retired: bool) -> UsageError:
    """Why --abort is refused: nothing is under way, or the other version is ``retired`` already."""
    if retired:
        hint = "to complete the rotation, run the same command without --abort"
        return UsageError("no rotation that can be aborted is under way: the other version is retired", hint=hint)
    return UsageError("no rotation that can be aborted is under way")


def execute(operation: Operation, keys: Keys, on_step: Callable[[str], object]) -> None:
    """Run what remains; ``on_step`` gets each title as its step begins.

    Raises SmallkubeError at a step that failed: the same operation resumes there.
    """
    for step in operation.remaining(keys):
        on_step(step.title)
        step.run()


@dataclass
class Outage:
    """How often the API server was restarted; ``seconds``: from each stop until it answered again, added up."""

    restarts: int = 0
    seconds: float = 0.0

    def add(self, lines: str) -> None:
        """What ``journalctl --output json`` says of its unit."""
        down = 0
        for line in split_lines(lines):
            try:
                entry = json.loads(line)
                when = int(entry["__REALTIME_TIMESTAMP"])
            except MALFORMED:
                continue
            if entry.get("MESSAGE_ID") in _DOWN:
                down = down or when
            elif entry.get("MESSAGE_ID") == _UP and down:
                self.restarts += 1
                self.seconds = round(self.seconds + (when - down) / 1e6, 1)
                down = 0

    @property
    def words(self) -> str:
        """For a person."""
        if not self.restarts:
            return "the API server did not restart"
        times = "once" if self.restarts == 1 else f"{self.restarts} times"
        return f"the API server restarted {times} and did not answer for {self.seconds:.0f} s in all"


@contextmanager
def outage_of(connect: Connect, primary: Node) -> Iterator[Outage]:
    """The API server's while the block runs, by systemd's journal; known once the block has ended without an error."""
    with connect(primary) as machine:
        began, outage = machine.run_checked(Command(("date", "+%s"), root=False)).text.strip(), Outage()
    yield outage
    outage.add(_journal_since(connect, primary, f"@{began}"))


def outage_of_last(connect: Connect, primary: Node, seconds: int) -> Outage:
    """The API server's in the last ``seconds``, by the primary's own clock."""
    outage = Outage()
    outage.add(_journal_since(connect, primary, f"-{seconds}s"))
    return outage


def _journal_since(connect: Connect, primary: Node, since: str) -> str:
    argv = ("journalctl", "--unit=kube-apiserver.service", f"--since={since}", "--output=json", "--no-pager")
    with connect(primary) as machine:
        return machine.run_checked(Command((*argv, "--output-fields=MESSAGE_ID"), title="read the journal")).text


def in_keys(rows: Iterable[Secret]) -> Callable[[Keys], bool]:
    """A predicate: a file of any of ``rows`` is there."""
    names = {row.file for row in rows}
    return lambda keys: not names.isdisjoint(keys.files)


def exchange(rows: Sequence[Secret], *, used: str, kept: str) -> Change:
    """The version ``used`` of each becomes the current one, which stays as the version ``kept``: OLD or NEW."""
    sources = {row: row.as_version(used) for row in rows}
    return Change(moved={row.as_version(kept): row for row in rows} | sources, removed=[*sources.values()])


@dataclass
class Runbook:
    """What every operation works with.

    ``master`` is None where no secret has to be opened, such as in a dry run; ``deploy`` is to all nodes by default.
    ``backup``: the name of the one that etcd's data can be restored from, once there is one.
    """

    cluster: Cluster
    master: Master | None
    connect: Connect
    deploy: Callable[..., Any]
    backup: str = field(default="", init=False)

    @property
    def inventory(self) -> Inventory:
        return self.cluster.inventory

    @property
    def keys(self) -> Keys:
        """keys/ as it is now."""
        return read_keys(self.cluster.workspace)

    def open(self, row: Secret, keys: Keys | None = None) -> bytes:
        """The plaintext of a secret, or of one of its versions; in ``keys``, by default as they are now."""
        assert self.master
        return transaction.opened(keys or self.keys, self.master, row)

    def change(self, make: Callable[[], Change]) -> None:
        """Carry out the change that ``make`` makes under the lock on keys/."""
        with changing_keys(self.cluster.workspace):
            transaction.apply(self.cluster, make())

    def update_keys(self) -> None:
        """Encrypt every secret to those who may read it now, generate what is missing, and write what is derived.

        Raises SmallkubeError when a secret can't be opened; nothing was changed then.
        """
        with changing_keys(self.cluster.workspace):
            rekey.act(self.cluster, rekey.plan_all(self.cluster))
            generate.act(self.cluster, generate.plan(self.cluster))

    def back_up(self) -> None:
        """Take a backup of etcd and verify it. Raises SmallkubeError."""
        from smallkube.etcd import backup

        primary = self.connect(self.inventory.primary)
        self.backup = backup.run(self.cluster, primary, backup.Options(), lambda _: None).record.name
        self.verify_backup(self.backup)

    def verify_backup(self, name: str) -> None:
        """Raise SmallkubeError unless the backup of this name can be decrypted and is sound."""
        from smallkube.etcd import backup, verify

        assert self.master
        with backup.locked(self.cluster) as there:
            (check,) = verify.verify(there, [name], self.master, lambda _: None)
        if failed([check]) or check.check != "snapshot":
            hint = "nothing was changed; inv etcd.list shows other backups"
            raise SmallkubeError(f"the backup is not sound: {check.detail}", where=name, hint=hint)

    def ask_primary(self, command: Command, shape: type[T]) -> T:
        """The JSON that ``command`` prints there. Raises SmallkubeError when it fails, or has another shape."""
        with self.connect(self.inventory.primary) as primary:
            return scripts.read(primary, command, shape)

    def await_service(self, seconds: float, off: Collection[str] = ()) -> None:
        """Wait until every node but those ``off`` reaches the API server at its cluster IP.

        An API server that stops withdraws its endpoint. After two restarts kube-proxy pauses for up to half a minute
        (smoke/context.py), and 1.34 and 1.35 can lose it permanently (nix/modules/kube-proxy.nix): it is restarted.
        """
        ip = self.inventory.addressing.api_service_ip
        url = f"https://{f'[{ip}]' if ':' in ip else ip}/api"
        command = Command(
            ("curl", "--silent", "--insecure", "--max-time", "5", "--output", "/dev/null", url), root=False
        )
        restart = Command(("systemctl", "try-restart", "kube-proxy.service"))
        nodes, restarted = [node for node in self.inventory.nodes if node.name not in off], set[str]()

        def reaches(host: Host) -> bool:
            reached = host.run(command).ok
            if not reached and host.node.name not in restarted:
                restarted.add(host.node.name)
                host.run(restart)
            return reached

        def without() -> list[str]:
            outcomes = fleet.ask(nodes, self.connect, reaches)
            return [outcome.node.name for outcome in outcomes if not outcome.value]

        hint = "on these nodes: systemctl restart kube-proxy; then run the same command again"
        wait_until(without, seconds, f"no answer at the cluster IP of the API server ({ip})", hint=hint)

    def complaints(self, ask: Callable[[Host], Iterable[str]]) -> list[str]:
        """What ``ask`` finds wrong on the machines, in words; "NODE (reason)" for each that could not be asked."""
        found: list[str] = []
        for outcome in fleet.ask(self.inventory.nodes, self.connect, lambda host: tuple(ask(host))):
            found += [f"{outcome.node.name} ({outcome.error.message})"] if outcome.error else outcome.value or ()
        return found


@dataclass
class Overlap(Runbook, ABC):
    """Secrets of which two versions are accepted for a while: NAME, which is used, and NAME.old or NAME.new.

    Aborted before the other version is retired, the previous becomes the current one again, with the new as NAME.new.
    """

    @property
    @abstractmethod
    def rows(self) -> tuple[Secret, ...]:
        """The secrets that are replaced."""

    def _operation(self, keys: Keys, abort: bool, titles: tuple[str, str], both: Steps, one: Steps) -> Operation:
        """``both``: the steps while two versions are accepted, ``one``: when the other is retired.

        ``titles`` are those of the first step, forward and back: a rotation that was aborted stays so.
        Raises UsageError when there is nothing to abort.
        """
        new, old = [row.new for row in self.rows], [row.old for row in self.rows]
        retired = tuple(row.retired for row in self.rows)
        if abort and not in_keys((*new, *old))(keys):
            raise not_abortable(retired=in_keys(retired)(keys))
        if abort or in_keys(new)(keys):
            back = partial(exchange, self.rows, used=policy.OLD, kept=policy.NEW)
            first = Step(titles[1], partial(self.change, back), in_keys((*new, *retired)))
        else:
            first = Step(titles[0], partial(self.change, self._begun), in_keys((*old, *retired)))
        retire = Step("retire the other version", partial(self.change, self._retired), in_keys(retired))
        delete = Step("delete the retired version", partial(self.change, partial(Change, removed=retired)))
        return Operation((first, *both, retire, *one, delete), in_keys((*new, *old, *retired)))

    def others(self, keys: Keys) -> Mapping[Secret, Secret]:
        """Row → its other version that is accepted now."""
        return {row: other for row in self.rows if (other := row.staged_in(keys.files))}

    def _begun(self) -> Change:
        return Change({row: kinds.make(row.kind, ()) for row in self.rows}, {row.old: row for row in self.rows})

    def _retired(self) -> Change:
        others = self.others(self.keys)
        return Change({row.retired: self.open(other) for row, other in others.items()}, removed=[*others.values()])
