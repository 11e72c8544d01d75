"""Which certificates are to be replaced."""

import datetime
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.cluster import Cluster
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


def choose(cluster: Cluster, nodes: Collection[str], *, everything: bool, now: datetime.datetime) -> Choice:
    """Which have a fault (or ``everything``); of ``nodes`` (names) when there are any.

    Whether a certificate is over its key is known only where the master is. Raises UsageError when a key is missing,
    SmallkubeError when one can't be opened: a deploy would fail of it.
    """
    keys, master = read_keys(cluster.workspace), read_master(cluster.workspace)
    renew, kept = {}, 0
    for row in policy.secrets_of(cluster.inventory):
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


def under_way(inventory: Inventory, keys: Keys) -> tuple[Secret, ...]:
    """The keys whose certificates a rotation concerns that has not ended; none when there is none.

    Raises SmallkubeError when files in keys/ are such as no rotation leaves them.
    """
    rows = [row for row in policy.secrets_of(inventory) if row.certificate]
    found = {row: stage for row in rows if (stage := staged.of(row, keys)) is not Stage.ONE}
    if len(set(found.values())) > 1:
        stages = ", ".join(f"{row.name}: {stage}" for row, stage in found.items())
        raise SmallkubeError(f"certificates stand at different steps: {stages}", hint="restore keys/ from git")
    return tuple(found)
