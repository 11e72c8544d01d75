"""keys/ as it lies on disk: reading all of it, the lock on it, and single secrets by name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace, lock, remove_temporaries
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, journal, policy, recipients_file
from smallkube.secrets.keyring import listed, read_recipient, require_master
from smallkube.secrets.policy import Secret
from smallkube.secrets.recipients_file import Record


@dataclass(frozen=True)
class Keys:
    """Encrypted files and certificates (file name → bytes), and what recipients.json records of them."""

    files: Mapping[str, bytes]
    certificates: Mapping[str, bytes]
    records: Mapping[str, Record]


def read_keys(workspace: Workspace) -> Keys:
    """Everything in keys/ that is not the identity. Raises SmallkubeError on a file that can't be read."""
    folder = workspace.keys_dir
    found: dict[str, dict[str, bytes]] = {policy.SUFFIX: {}, ".crt": {}}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix in found and not path.name.startswith("."):
            try:
                found[path.suffix][path.name] = path.read_bytes()
            except OSError as error:
                raise SmallkubeError(f"can't be read: {error.strerror}", where=workspace.relative(path)) from error
    return Keys(found[policy.SUFFIX], found[".crt"], recipients_file.read(workspace))


@contextmanager
def changing_keys(workspace: Workspace) -> Iterator[tuple[str, ...]]:
    """Hold the lock on keys/, having swept what a killed run left there and completed what it had begun.

    Yields the nodes whose change of keys had to be completed. Raises UsageError when another process holds the lock.
    """
    with lock(workspace.state_dir / "keys.lock", "changing keys/"):
        for folder in (workspace.keys_dir, workspace.hosts_keys_dir):
            if folder.is_dir():
                remove_temporaries(folder)
        yield journal.complete(workspace)


def find(cluster: Cluster, name: str) -> Secret:
    """The secret called ``name`` (as in keys/, with or without .age).

    Raises UsageError when the policy has none of that name, or its file is missing.
    """
    existing = {path.name for path in cluster.workspace.keys_dir.glob(f"*{policy.SUFFIX}")}
    table = {row.name: row for row in policy.expected(cluster.inventory, existing)}
    row = table.get(name.removeprefix("keys/").removesuffix(policy.SUFFIX))
    if row is None:
        raise UsageError(f"no secret {name!r}", hint=f"there are {listed(table)}; see `inv keys.list`")
    if row.file not in existing:
        where = cluster.workspace.relative(cluster.workspace.keys_dir / row.file)
        raise UsageError("missing", where=where, hint="run `inv keys.generate`")
    return row


def show(cluster: Cluster, name: str) -> bytes:
    """The plaintext of the secret called ``name``. Raises UsageError, and SmallkubeError when it can't be opened."""
    row = find(cluster, name)
    path = cluster.workspace.keys_dir / row.file
    master = require_master(cluster.workspace, "to read secrets")
    read_recipient(cluster.workspace, master)
    return age.decrypt(path.read_bytes(), master, cluster.workspace.relative(path))
