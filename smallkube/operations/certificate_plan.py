"""Which certificates are to be replaced, and by which steps."""

import datetime
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory.models import Inventory
from smallkube.secrets import certificates, change, kinds, policy, staged
from smallkube.secrets.keyring import read_master
from smallkube.secrets.policy import Secret
from smallkube.secrets.staged import Stage
from smallkube.secrets.store import Keys, read_keys


@dataclass(frozen=True)
class Choice:
    """``renew``: key → why it and its certificate are replaced; ``kept``: how many are as they should be."""

    renew: Mapping[Secret, tuple[str, ...]]
    kept: int


@dataclass(frozen=True)
class Plan:
    """``rows`` all stand at ``stage``; ``back``: the certificates of before stay."""

    rows: tuple[Secret, ...]
    stage: Stage
    back: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """The certificates that it concerns."""
        return tuple(row.certificate.file for row in self.rows if row.certificate)

    @property
    def steps(self) -> tuple[str, ...]:
        """What will be done, in words."""
        names = ", ".join(self.files)
        begin = (f"make new keys and certificates beside {names}",)
        switch = (
            "deploy: everybody trusts the new ones too",
            "wait until every pod's ca.crt has the API server's new one",
            "put the new ones in the place of the old",
        )
        use = ("deploy: they are used, the others still trusted", "see the API server and every kubelet show them")
        end = (f"stop trusting what is beside {names}", "deploy, and see them shown again", "remove the keys beside")
        match self.stage, self.back:
            case Stage.ONE, _:
                return (*begin, *switch, *use, *end)
            case Stage.TRUSTED, False:
                return (*switch, *use, *end)
            case Stage.SWITCHED, True:
                return (f"put the old ones in the place of the new: {names}", *use, *end)
            case Stage.SWITCHED, False:
                return (*use, *end)
            case Stage.ENDING, _:
                return end[1:]
        return end


def choose(
    workspace: Workspace, inventory: Inventory, nodes: Collection[str], *, everything: bool, now: datetime.datetime
) -> Choice:
    """Which have a fault (or ``everything``); of ``nodes`` (names) when there are any.

    Whether a certificate is over its key is known only where the master is. Raises UsageError when a key is missing,
    SmallkubeError when one can't be opened: a deploy would fail of it.
    """
    keys, master = read_keys(workspace), read_master(workspace)
    renew, kept = {}, 0
    for row in policy.secrets_of(inventory):
        if row.certificate is None or (nodes and row.node not in nodes):
            continue
        if row.file not in keys.files:
            raise UsageError("missing", where=f"keys/{row.file}", hint="run `inv keys.generate`")
        plaintext = change.opened(keys, master, row) if master else None
        if plaintext is not None:
            kinds.validate(row.kind, plaintext, f"keys/{row.file}")
        pem = keys.certificates.get(row.certificate.file)
        why = certificates.complaints(pem, row.certificate, row.file, plaintext, now)
        if why or everything:
            renew[row] = tuple(why) or ("asked for",)
        else:
            kept += 1
    return Choice(renew, kept)


def under_way(inventory: Inventory, keys: Keys, *, back: bool) -> Plan | None:
    """What is to be done about a rotation that has not ended; None when there is none.

    Raises UsageError when there is nothing that could be gone back from, SmallkubeError when files in keys/ are such
    as no rotation leaves them.
    """
    rows = [row for row in policy.secrets_of(inventory) if row.certificate]
    found = {row: stage for row in rows if (stage := staged.of(row, keys)) is not Stage.ONE}
    reached = set(found.values())
    if len(reached) > 1:
        reply = ", ".join(f"{row.name}: {stage}" for row, stage in found.items())
        raise SmallkubeError(f"certificates stand at different steps: {reply}", hint="restore keys/ from git")
    if back and reached == {Stage.ENDING}:
        raise UsageError("only the last deploy of the rotation is missing", hint="run it without --abort")
    if not found:
        if back:
            raise UsageError("no rotation is under way", hint="only one that has not ended can be taken back")
        return None
    return Plan(tuple(found), reached.pop(), back)


def new(chosen: Sequence[Secret]) -> Plan:
    """A rotation from its beginning."""
    return Plan(tuple(chosen), Stage.ONE)
