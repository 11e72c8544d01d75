"""Remove an administrator: every secret is encrypted to the others alone, and what the one could read is replaced.

keys/exposed.json says what that is, from the beginning to the end, and shrinks with each rotation that has ended. The
rotations are the operations of the tasks that the policy names (``Kind.rotated_by``), step by step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from smallkube.core.errors import SmallkubeError, UsageError, listed
from smallkube.core.workspace import IDENTITY
from smallkube.etcd import catalog
from smallkube.inventory import edit, load, positions
from smallkube.inventory.cluster import Cluster
from smallkube.operations import admins, certificates, encryption, identities, issuer, tokens, users, wireguard
from smallkube.operations.engine import Operation, Runbook, Step, not_abortable
from smallkube.secrets import exposed, people, policy, transaction
from smallkube.secrets.age import Master
from smallkube.secrets.exposed import Exposed
from smallkube.secrets.keyring import load_keyring
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.recipients import State
from smallkube.secrets.transaction import Change, Keys, changing_keys

_AGAIN = "run the same command again"


@dataclass(frozen=True)
class Plan:
    """``exposed``: who leaves, and what they could read that is not replaced yet; ``begun``: keys/ says so already.

    ``inside``: the inventory still has them; ``others`` and ``everyone``: the cluster without and with them.
    ``backups``: names of those here that they can read.
    """

    exposed: Exposed
    begun: bool
    inside: bool
    others: Cluster
    everyone: Cluster
    backups: tuple[str, ...]

    @property
    def rows(self) -> tuple[Secret, ...]:
        """What is to be replaced, in the order of the policy."""
        return tuple(row for row in exposable(self.others) if row.name in self.exposed.secrets)


def make(cluster: Cluster, name: str, master: Master) -> Plan:
    """What is to be done.

    Raises UsageError when ``name`` is no administrator, is the last one, or has the only identity in ``master``.
    """
    workspace, keys = cluster.workspace, transaction.read_keys(cluster.workspace)
    found, named = exposed.read(workspace), cluster.inventory.cluster.secrets.admins
    if found and found.name != name:
        hint = f"complete it first: inv admins.remove {found.name}"
        raise UsageError(f"the removal of {found.name} is under way", hint=hint)
    recipient = found.recipient if found else admins.require(cluster, name)
    if [*named] == [name]:
        raise UsageError(f"{name} is the last administrator", hint="add another one first: inv admins.add")
    if tokens_of_nodes := [row.file for row in policy.node_tokens(cluster.inventory) if row.file in keys.files]:
        hint = "inv keys.prune, when every node has been deployed with certificates"
        raise UsageError("tokens of an earlier version are there", where=f"keys/{tokens_of_nodes[0]}", hint=hint)
    present = (row.name for row in exposable(cluster) if row.file in keys.files)
    text, file = positions.read_text(workspace.inventory_file), workspace.inventory_file
    inside = name in named
    without = edit.remove_admin(text, name) if inside else text
    with_them = text if inside else edit.add_admin(text, name, recipient)
    others, everyone = (Cluster(workspace, load.parse(each, file)) for each in (without, with_them))
    if load_keyring(others, master).own(master) is None:
        hint = f"name the identity file of {listed(others.inventory.cluster.secrets.admins)} in {IDENTITY}"
        raise UsageError(f"is no identity of another administrator than {name}", where=master.where, hint=hint)
    there = catalog.read(catalog.folder_of(cluster))
    backups = tuple(record.name for record in there.records if recipient in record.recipients)
    leaving = found or Exposed(name, recipient, tuple(present))
    return Plan(leaving, found is not None, inside, others, everyone, backups)


@dataclass
class Removal(Runbook):
    """Carries out ``plan``; ``cluster`` is ``plan.others``, or ``plan.everyone`` to abort.

    ``overlap``: seconds for programs to read their new ServiceAccount token; ``seconds``: how long clients may take to
    follow.
    """

    plan: Plan
    overlap: int
    seconds: int

    def operation(self, keys: Keys) -> Operation:
        """The steps that are left. Raises UsageError when a rotation is under way that another command has begun."""
        name = self.plan.exposed.name
        record = Step(f"record in keys/exposed.json what {name} could read", lambda: self._note(self.plan.exposed))
        remove = partial(edit.remove_admin, name=name)
        edited = Step(f"remove {name} from cluster.secrets.admins in inventory.yaml", partial(self._edit, remove))
        steps = (
            *(() if self.plan.begun else (record,)),
            *((edited,) if self.plan.inside else ()),
            Step(f"re-encrypt every secret without {name}", self.update_keys),
            *(step for task, rows in self._tasks().items() for step in self._rotation(task, rows, keys)),
            Step(f"verify that no secret is encrypted to {name}", self._verify),
            Step("delete keys/exposed.json", lambda: self._note(None)),
        )
        return Operation(steps, lambda _: self.plan.begun)

    def abort(self, keys: Keys) -> Operation:
        """The steps that undo it. Raises UsageError when nothing is under way, or a secret was replaced already."""
        name, unchanged = self.plan.exposed.name, {row.name for row in self.plan.rows}
        replaced = {row.name for row in exposable(self.cluster) if row.file in keys.files} - unchanged
        if not self.plan.begun:
            raise not_abortable(retired=False)
        begun = [task for task, rows in self._tasks().items() if self._of_task(task, rows, keys).under_way(keys)]
        if replaced or begun:
            hint = f"complete it without --abort; inv admins.add {name} lets them read what is new"
            raise UsageError(f"secrets that {name} could read are being replaced already", hint=hint)
        add = partial(edit.add_admin, name=name, recipient=self.plan.exposed.recipient)
        again = Step(f"add {name} to cluster.secrets.admins in inventory.yaml again", partial(self._edit, add))
        steps = (
            *(() if self.plan.inside else (again,)),
            Step(f"re-encrypt every secret to {name} as well", self.update_keys),
            Step("delete keys/exposed.json", lambda: self._note(None)),
        )
        return Operation(steps, lambda _: True)

    def _tasks(self) -> dict[str, list[Secret]]:
        """Task → what it replaces, by the policy."""
        found: dict[str, list[Secret]] = {}
        for kind in Kind:
            if rows := [row for row in self.plan.rows if row.kind is kind]:
                found.setdefault(task_of(kind), []).extend(rows)
        return found

    def _of_task(self, task: str, rows: Sequence[Secret], keys: Keys) -> Operation:
        return ROTATIONS[task](self, rows, keys)

    def _rotation(self, task: str, rows: Sequence[Secret], keys: Keys) -> Iterator[Step]:
        """What is left of one rotation. A step here never says that it is done: exposed.json does for all of them."""
        operation = self._of_task(task, rows, keys)
        if operation.under_way(keys) and not self.plan.begun:
            raise UsageError("a rotation is under way", hint=f"complete or abort it first: inv {task}")
        for step in operation.remaining(keys):
            yield Step(f"{task}: {step.title}", step.run)
        names = listed([row.name for row in rows], 3)
        yield Step(f"{task}: record that {names} can no longer be exposed", partial(self._replaced, rows))

    def _note(self, found: Exposed | None) -> None:
        self.change(lambda: Change(public=exposed.file(self.cluster.workspace, found)))

    def _replaced(self, rows: Sequence[Secret]) -> None:
        if found := exposed.read(self.cluster.workspace):
            self._note(found.without(rows))

    def _edit(self, change: Callable[[str], str]) -> None:
        file = self.cluster.workspace.inventory_file
        edit.write(file, change(positions.read_text(file)))

    def _verify(self) -> None:
        keys, keyring = self.keys, load_keyring(self.cluster, self.master)
        findings = transaction.examined(self.cluster, keys, policy.expected(self.inventory, keys.files), keyring)
        if bad := [f"{each.secret.file}: {each.faults[0]}" for each in findings if each.state is not State.GOOD]:
            raise SmallkubeError(f"not encrypted to the administrators that are left: {listed(bad)}", hint=_AGAIN)

    def replace_wireguard(self, rows: Sequence[Secret]) -> None:
        """New WireGuard keys and peers.json."""
        with changing_keys(self.cluster.workspace):
            wireguard.act(self.cluster, rows)


def exposable(cluster: Cluster) -> tuple[Secret, ...]:
    """The secrets of the policy, and the keys of people that were made here."""
    return (*policy.secrets_of(cluster.inventory), *(each.key for each in people.read(cluster.workspace).values()))


def task_of(kind: Kind) -> str:
    """The task that replaces secrets of this kind."""
    return kind.rotated_by.split()[1]


def _wireguard(run: Removal, rows: Sequence[Secret], _: Keys) -> Operation:
    names = listed(row.node for row in rows)
    replace = Step(f"generate WireGuard keys for {names}", partial(run.replace_wireguard, rows))
    return Operation((replace, Step("deploy: all nodes in lockstep", run.deploy)))


def _tokens(run: Removal, rows: Sequence[Secret], keys: Keys) -> Operation:
    users = {row.user.short: row for row in rows if row.user}
    rotation = tokens.Rotation(run.cluster, run.master, run.connect, run.deploy, users, run.seconds)
    return rotation.operation(keys, abort=False)


def _encryption(run: Removal, _: Sequence[Secret], keys: Keys) -> Operation:
    rotation = encryption.Rotation(run.cluster, run.master, run.connect, run.deploy, backs_up=True)
    return rotation.operation(keys, abort=False)


def _certificates(run: Removal, rows: Sequence[Secret], keys: Keys) -> Operation:
    rotation = certificates.Rotation(run.cluster, run.master, run.connect, run.deploy, tuple(rows), run.seconds)
    return rotation.operation(keys, abort=False, pause=False)


def _issuer(run: Removal, _: Sequence[Secret], keys: Keys) -> Operation:
    rotation = issuer.Rotation(run.cluster, run.master, run.connect, run.deploy, run.overlap, run.seconds)
    return rotation.operation(keys, abort=False)


def _people(run: Removal, rows: Sequence[Secret], _: Keys) -> Operation:
    workspace, now = run.cluster.workspace, datetime.now(UTC)
    known = people.read(workspace).values()
    names = [each.name for each in known if each.key in rows and each.ends > now and not each.removed]

    def issue() -> None:
        with changing_keys(workspace):
            for name in names:
                users.add(run.cluster, users.Wanted(name, new_key=True), datetime.now(UTC))

    def send() -> None:
        with run.connect(run.inventory.primary) as primary:
            identities.send(run.cluster, primary)

    title = f"issue new keys for {listed(names)}: each needs inv users.kubeconfig again"
    accept = Step("have the API server accept their new certificates, and not the previous", send)
    return Operation((Step(title, issue), accept) if names else ())


ROTATIONS: Mapping[str, Callable[[Removal, Sequence[Secret], Keys], Operation]] = {
    "keys.rotate-wireguard": _wireguard,
    "tokens.rotate": _tokens,
    "encryption.rotate": _encryption,
    "keys.rotate-certificates": _certificates,
    "keys.rotate-issuer": _issuer,
    "users.add": _people,
}
"""Task → its operation for some secrets: one for each task that the policy names."""
