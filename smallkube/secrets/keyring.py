"""Whom secrets are encrypted to: the administrators, and the nodes' host keys.

``cluster.secrets.admins`` names the administrators. Without it there is one, called "master": keys/master_key, whose
public half is keys/master_key.pub.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from smallkube.core.errors import UsageError, listed
from smallkube.core.workspace import IDENTITY, Workspace
from smallkube.inventory.admins import Kind, kind_of
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age
from smallkube.secrets.age import MASTER_RECIPIENT, Master
from smallkube.secrets.host_keys import HostKey, load_hosts, parse_host_key

if TYPE_CHECKING:
    from smallkube.secrets.policy import Secret

MASTER = "master"


@dataclass(frozen=True)
class Keyring:
    """``admins``: name → recipient; ``hosts`` has the nodes whose host key is known.

    ``listed``: the inventory names the administrators.
    """

    admins: Mapping[str, str]
    hosts: Mapping[str, HostKey]
    listed: bool = True

    def recipients(self, secret: "Secret") -> tuple[str, ...]:
        """Whom ``secret`` is encrypted to: administrators first. Raises KeyError when a reader's key is not known."""
        return (*self.admins.values(), *(str(self.hosts[node]) for node in secret.readers))

    def unknown(self, secret: "Secret") -> list[str]:
        """Those of its readers whose host keys are not known."""
        return [node for node in secret.readers if node not in self.hosts]

    @cached_property
    def names(self) -> dict[str, str]:
        """What a person calls a recipient, and the tag that an SSH key has in age headers."""
        ssh = {name: parse_host_key(each, name) for name, each in self._of(Kind.SSH).items()}
        keys = {form: name for name, key in {**self.hosts, **ssh}.items() for form in (key.tag, str(key))}
        return {**keys, **{each: name for name, each in self.admins.items()}}

    def tags(self, secret: "Secret") -> list[str]:
        """Of those whom ``secret`` is encrypted to and whom a header names: readers, administrators with SSH keys."""
        own = [parse_host_key(each, name).tag for name, each in self._of(Kind.SSH).items()]
        return [*own, *(self.hosts[node].tag for node in secret.readers)]

    @cached_property
    def anonymous(self) -> dict[Kind, tuple[str, ...]]:
        """The administrators whom no header names, by the kind of their recipients."""
        return {kind: tuple(self._of(kind)) for kind in (Kind.X25519, Kind.PLUGIN)}

    def own(self, master: Master | None) -> Master | None:
        """Those of the operator's identities that are an administrator's now; None without one."""
        found = master.only(*self.admins.values()) if master else None
        return found if found and found.identities else None

    def named(self, master: Master | None) -> tuple[str, ...]:
        """The administrators whose identities the operator has."""
        return tuple(name for name, each in self.admins.items() if master and each in master.recipients)

    @property
    def public(self) -> dict[str, bytes | None]:
        """The file in keys/ with the recipient of keys/master_key; there is none where the inventory has it."""
        return {MASTER_RECIPIENT: None if self.listed else f"{self.admins[MASTER]}\n".encode()}

    def _of(self, kind: Kind) -> dict[str, str]:
        return {name: each for name, each in self.admins.items() if kind_of(each) is kind}


def of_master(recipient: str, hosts: Mapping[str, HostKey]) -> Keyring:
    """With the one administrator that there is where the inventory names none."""
    return Keyring({MASTER: recipient}, hosts, listed=False)


def admins_of(cluster: Cluster, master: Master | None = None) -> Mapping[str, str]:
    """Name → recipient of the administrators; none where there is not even the public half of ``master`` yet."""
    if named := cluster.inventory.cluster.secrets.admins:
        return named
    recipient = age.read_recipient(cluster.workspace, master)
    return {MASTER: recipient} if recipient else {}


def find_keyring(cluster: Cluster, master: Master | None, hosts: Mapping[str, HostKey] | None = None) -> Keyring | None:
    """What new secrets are encrypted to; None where no administrator is known yet. ``hosts``: if they are read already.

    Raises UsageError on host keys or a public key that are damaged or contradict each other.
    """
    hosts, admins = load_hosts(cluster) if hosts is None else hosts, admins_of(cluster, master)
    nodes = {str(key): node for node, key in hosts.items()}
    for name, each in admins.items():
        if each in nodes:
            hint = "give the administrator a key of their own"
            raise UsageError(f"is the host key of {nodes[each]}", where=f"cluster.secrets.admins.{name}", hint=hint)
    return Keyring(admins, hosts, bool(cluster.inventory.cluster.secrets.admins)) if admins else None


def load_keyring(cluster: Cluster, master: Master | None = None) -> Keyring:
    """The same; raises UsageError also where no administrator is known yet."""
    found = find_keyring(cluster, master or age.read_master(cluster.workspace))
    if found is None:
        where = cluster.workspace.relative(cluster.workspace.keys_dir)
        raise UsageError("no secrets yet", where=where, hint="run `inv keys.generate`")
    return found


def require_own(keyring: Keyring, master: Master) -> Master:
    """``Keyring.own``; raises UsageError when no administrator has one of these identities."""
    if own := keyring.own(master):
        return own
    hint = f"there are {listed(keyring.admins)}; {IDENTITY} names another identity file"
    raise UsageError("belongs to no administrator in cluster.secrets.admins", where=master.where, hint=hint)


def require_host_keys(workspace: Workspace, keyring: Keyring, wanted: Iterable["Secret"]) -> None:
    """Raise UsageError that names every node whose host key is needed for ``wanted`` and not found."""
    missing = list(dict.fromkeys(node for row in wanted for node in keyring.unknown(row)))
    if missing:
        flags = " ".join(f"--node {node}" for node in missing[:10]) if len(missing) <= 10 else ""
        raise UsageError(
            f"no SSH host key of {listed(missing)}",
            where=workspace.relative(workspace.hosts_keys_dir),
            hint=f"run `{f'inv keys.scan {flags}'.strip()}`",
        )
