"""The public keys that secrets are encrypted to, and the master identity where it is here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from smallkube.core.errors import UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age
from smallkube.secrets.policy import Secret
from smallkube.secrets.ssh_keys import HostKey, read_host_key

MASTER_RECIPIENT = "master_key.pub"


@dataclass(frozen=True)
class Keyring:
    """``master`` is the recipient in force (``age1…``); ``hosts`` has the nodes whose host key is known."""

    master: str
    hosts: Mapping[str, HostKey]

    def recipients(self, secret: Secret) -> tuple[str, ...]:
        """Whom ``secret`` is encrypted to: the master first. Raises KeyError when a reader's key is not known."""
        return (self.master, *(str(self.hosts[node]) for node in secret.readers))

    def knows(self, secret: Secret) -> bool:
        """Whether the host keys of all its readers are known."""
        return all(node in self.hosts for node in secret.readers)

    def name_of(self, recipient: str) -> str:
        """What a person calls this recipient."""
        if recipient == self.master:
            return "master"
        return self._by_recipient.get(recipient, "an unknown key")

    @cached_property
    def by_tag(self) -> dict[str, str]:
        """The tag that a host key has in age headers → node."""
        return {key.tag: node for node, key in self.hosts.items()}

    @cached_property
    def _by_recipient(self) -> dict[str, str]:
        return {str(key): node for node, key in self.hosts.items()}


def load_hosts(cluster: Cluster) -> dict[str, HostKey]:
    """The stored host keys of the inventory's nodes.

    Raises UsageError on a damaged one, and on one that two nodes share: each could read the other's secrets.
    """
    hosts: dict[str, HostKey] = {}
    for node in cluster.inventory.nodes:
        path = cluster.workspace.hosts_keys_dir / f"{node.name}.pub"
        if path.exists() or path.is_symlink():
            hosts[node.name] = read_host_key(path, cluster.workspace.relative(path))
    for first, second in shared(hosts):
        raise UsageError(
            f"{first} and {second} have the same host key (a cloned machine?)",
            where=cluster.workspace.relative(cluster.workspace.hosts_keys_dir / f"{second}.pub"),
            hint=f"make new SSH host keys on {second}, then run `inv keys.scan --node {second}`",
        )
    return hosts


def shared(hosts: Mapping[str, HostKey]) -> list[tuple[str, str]]:
    """Pairs of nodes that have one host key."""
    seen: dict[HostKey, str] = {}
    return [(first, node) for node, key in hosts.items() if (first := seen.setdefault(key, node)) != node]


def demand(workspace: Workspace, keyring: Keyring, wanted: Iterable[Secret]) -> None:
    """Raise UsageError that names every node whose host key is needed for ``wanted`` and not here."""
    missing = list(dict.fromkeys(n for row in wanted for n in row.readers if n not in keyring.hosts))
    if missing:
        flags = " ".join(f"--node {node}" for node in missing[:10]) if len(missing) <= 10 else ""
        raise UsageError(
            f"no SSH host key of {listed(missing)}",
            where=workspace.relative(workspace.hosts_keys_dir),
            hint=f"run `{f'inv keys.scan {flags}'.strip()}`",
        )


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Names for a message, not more than ``limit`` of them."""
    given = list(names)
    rest = f" and {len(given) - limit} more" if len(given) > limit else ""
    return ", ".join(given[:limit]) + rest


def read_master(workspace: Workspace) -> age.Master | None:
    """The identities in keys/master_key; None when the file is not here. Raises UsageError when it is damaged."""
    path = workspace.master_key
    where = workspace.relative(path)
    if not path.exists():
        return None
    try:
        return age.parse_master(path.read_text(encoding="ascii"), where)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't be read: {getattr(error, 'strerror', 'not text')}", where=where) from error


def require_master(workspace: Workspace, purpose: str) -> age.Master:
    """The master identity; raises UsageError when it is not here."""
    master = read_master(workspace)
    if master is None:
        raise UsageError(
            f"is not here, and is needed {purpose}",
            where=workspace.relative(workspace.master_key),
            hint="bring it from where its owner keeps it",
        )
    return master


def read_recipient(workspace: Workspace, master: age.Master | None) -> str | None:
    """The recipient in force: master_key.pub, else that of the identity here; None when there is neither.

    Raises UsageError when the two don't belong together.
    """
    path = workspace.keys_dir / MASTER_RECIPIENT
    where = workspace.relative(path)
    if not path.exists():
        return master.recipient if master else None
    try:
        recipient = age.parse_master_recipient(path.read_text(encoding="ascii"), where)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't be read: {getattr(error, 'strerror', 'not text')}", where=where) from error
    if master and recipient not in master.recipients:
        raise UsageError(
            "is not the key that the secrets here are encrypted to",
            where=workspace.relative(workspace.master_key),
            hint=f"bring the identity of {where}; to change the master, put the new identity above the old one",
        )
    return recipient
