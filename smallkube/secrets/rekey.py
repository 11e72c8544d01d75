"""Re-encrypting what is encrypted to a wrong set of recipients; nothing else is touched.

Everything is decrypted before anything is written, each new file is verified by decrypting it before it replaces the
previous one, and what can't be decrypted is reported and kept.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, policy, transaction
from smallkube.secrets.keyring import Keyring, load_keyring, of_master, require_host_keys, require_own
from smallkube.secrets.policy import Secret
from smallkube.secrets.recipients import Finding, State
from smallkube.secrets.transaction import Change, Keys


@dataclass(frozen=True)
class Plan:
    """``change``: what is to be re-encrypted → plaintext; ``failed``: file → why it can't be; ``good``: the rest."""

    change: Mapping[Finding, bytes] = field(repr=False)
    failed: Mapping[str, str]
    good: tuple[Secret, ...]
    new_master: bool
    master: age.Master = field(repr=False)
    keyring: Keyring
    keys: Keys = field(repr=False)


def plan(cluster: Cluster, nodes: Collection[str] = ()) -> Plan:
    """What has to be re-encrypted; without administrators, the first identity here is the master from then on.

    Raises UsageError when an identity or a host key is missing, or the identity is no administrator's.
    """
    master = age.require_master(cluster.workspace, "to re-encrypt")
    keyring = load_keyring(cluster, master)
    new_master = not keyring.listed and master.recipient not in keyring.admins.values()
    if nodes and new_master:
        raise UsageError("a new master concerns the secrets of all nodes", hint="run it without --node")
    if new_master:
        keyring = of_master(master.recipient, keyring.hosts)
    own, keys = require_own(keyring, master), transaction.read_keys(cluster.workspace)
    table = policy.expected(cluster.inventory, keys.files)
    wanted = tuple(row for row in table if row.file in keys.files and (not nodes or row.node in nodes))
    require_host_keys(cluster.workspace, keyring, wanted)
    findings = transaction.examined(cluster, keys, wanted, keyring, own)
    failed = {each.secret.file: each.faults[0] for each in findings if each.state is State.DAMAGED}
    change = {}
    for finding in (each for each in findings if each.state is State.WRONG_SET):
        try:
            change[finding] = finding.plaintext or transaction.opened(keys, master, finding.secret)
        except SmallkubeError as error:
            failed[finding.secret.file] = error.message
    good = tuple(finding.secret for finding in findings if finding.state is State.GOOD)
    return Plan(change, failed, good, new_master, own, keyring, keys)


def plan_all(cluster: Cluster) -> Plan:
    """``plan``, where nothing must be left behind: raises SmallkubeError also when a file can't be opened."""
    planned = plan(cluster)
    for file, why in planned.failed.items():
        raise SmallkubeError(f"{why}; nothing was changed", where=f"keys/{file}", hint="restore it from git")
    return planned


def act(cluster: Cluster, planned: Plan) -> tuple[str, ...]:
    """Carry out ``planned``, under the lock on keys/ that was held while planning; returns what else was updated.

    The records of files that are right are renewed too. Raises SmallkubeError when a file can't be written; the next
    command that takes the lock then completes it.
    """
    new = {finding.secret: plaintext for finding, plaintext in planned.change.items()}
    change = Change(new, public=planned.keyring.public, verified=planned.good)
    written = transaction.apply(cluster, change, keys=planned.keys, keyring=planned.keyring, master=planned.master)
    return tuple(name for name in written if name not in {row.file for row in new})
