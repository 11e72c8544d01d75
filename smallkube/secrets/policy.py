"""Which secrets exist and who may read them: the one table from which everything about secrets is derived.

Generation, ``secrets.nix``, checks, re-encryption and what each node is given under /run/agenix all follow it. Pure:
no I/O, and nothing imported that takes time.
"""

import ipaddress
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from smallkube.inventory.models import Inventory, Node

SUFFIX = ".age"
OLD = ".old"
NEW = ".new"
RETIRED = ".retired"
API_CERTIFICATE = "apiserver.crt"


class Kind(StrEnum):
    """What a secret holds; decides how it is made, how it is validated and what is derived from it."""

    WIREGUARD = "WireGuard private key"
    TOKEN = "API token"
    ENCRYPTION = "EncryptionConfiguration"
    SERVING_KEY = "private key with certificate"
    SIGNING_KEY = "private key"


@dataclass(frozen=True)
class Certificate:
    """The public half of a key: a file in keys/ in clear, and what the certificate says."""

    file: str
    common_name: str
    usage: Literal["serverAuth", "clientAuth"]
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    def beside(self, word: str) -> "Certificate":
        """The one that is trusted as well during a rotation: ``word`` is OLD or NEW."""
        stem, dot, suffix = self.file.rpartition(".")
        return replace(self, file=f"{stem}{word}{dot}{suffix}")

    @property
    def trusted_files(self) -> tuple[str, ...]:
        """Those that the other side trusts, as far as they exist (see nix/modules/lib.nix)."""
        return (self.file, self.beside(NEW).file, self.beside(OLD).file)


@dataclass(frozen=True)
class Secret:
    """One row of the table. ``readers`` are node names, by index; the master reads all.

    ``node`` is the node it belongs to; what belongs to the whole cluster belongs to the primary.
    """

    name: str
    kind: Kind
    node: str
    readers: tuple[str, ...]
    certificate: Certificate | None = None

    @property
    def file(self) -> str:
        """Name of its file in keys/."""
        return self.name + SUFFIX

    def name_on(self, node: str) -> str:
        """Its name under /run/agenix on ``node``: a node's own WireGuard key is called the same everywhere."""
        if self.kind is not Kind.WIREGUARD:
            return self.name
        return self.name.replace(f"wgkube{node.removeprefix('node')}.key", "wgkube.key", 1)

    @property
    def old(self) -> "Secret":
        """The one of before, which stands beside it during a rotation; same readers."""
        return self._beside(OLD)

    @property
    def new(self) -> "Secret":
        """One that is not used yet, or was given up, and stands beside it during a rotation; same readers."""
        return self._beside(NEW)

    @property
    def retired(self) -> "Secret":
        """One that is accepted no more, and is kept until that has been verified; only the master reads it."""
        return replace(self._beside(RETIRED), readers=())

    @property
    def versions(self) -> "tuple[Secret, ...]":
        """All that may stand beside it."""
        return (*self.beside, self.retired)

    @property
    def beside(self) -> "tuple[Secret, Secret]":
        """Those beside it that are accepted as well."""
        return (self.new, self.old)

    def other(self, existing_files: Collection[str]) -> "Secret | None":
        """The one beside it whose file is there."""
        return next((row for row in self.beside if row.file in existing_files), None)

    @property
    def in_use(self) -> bool:
        """Whether its readers are given it: a key is used under its own name only."""
        return self.kind is not Kind.SERVING_KEY or not self.name.endswith((OLD, NEW, RETIRED))

    def _beside(self, word: str) -> "Secret":
        return replace(self, name=self.name + word, certificate=self.certificate and self.certificate.beside(word))


def secrets_of(inventory: "Inventory") -> tuple[Secret, ...]:
    """Every secret that this inventory demands; those of the primary first, then node by node."""
    rows = list(_cluster_secrets(inventory))
    for node in inventory.nodes:
        rows += _node_secrets(inventory, node)
    return tuple(rows)


def expected(inventory: "Inventory", existing_files: Collection[str]) -> tuple[Secret, ...]:
    """The table, and beside each secret its other versions as far as such files are there."""
    rows: list[Secret] = []
    for secret in secrets_of(inventory):
        rows += [secret, *(row for row in secret.versions if row.file in existing_files)]
    return tuple(rows)


def secret_files(inventory: "Inventory", node: "Node", existing_files: Collection[str]) -> dict[str, str]:
    """What ``node`` may read: name under /run/agenix → file in keys/ (``{"wgkube.key": "wgkube2.key.age"}``).

    ``existing_files`` are the names in keys/; from them only the ``.old`` files of a rotation are taken.
    """
    return secret_files_by_node(inventory, existing_files)[node.name]


def secret_files_by_node(inventory: "Inventory", existing_files: Collection[str]) -> dict[str, dict[str, str]]:
    """``secret_files`` of every node, by its name."""
    files: dict[str, dict[str, str]] = {node.name: {} for node in inventory.nodes}
    for row in expected(inventory, existing_files):
        for reader in row.readers if row.in_use else ():
            files[reader][row.name_on(reader)] = row.file
    return files


def public_files(inventory: "Inventory", existing_files: Collection[str] = ()) -> tuple[str, ...]:
    """The certificates that accompany the secrets, in clear; of those beside them, the ones in ``existing_files``."""
    wanted = [secret.certificate for secret in secrets_of(inventory) if secret.certificate]
    beside = (file for each in wanted for file in each.trusted_files[1:] if file in existing_files)
    return (*(each.file for each in wanted), *beside)


def _cluster_secrets(inventory: "Inventory") -> Iterator[Secret]:
    primary = inventory.primary.name

    def row(name: str, kind: Kind, certificate: Certificate | None = None) -> Secret:
        return Secret(name, kind, primary, (primary,), certificate)

    yield row("kube_token_root", Kind.TOKEN)
    yield row("kube_token_system_kube-controller-manager", Kind.TOKEN)
    yield row("kube_token_system_kube-scheduler", Kind.TOKEN)
    yield row("EncryptionConfiguration.yaml", Kind.ENCRYPTION)
    if inventory.cluster.api.tls == "pinned":
        yield row("apiserver.key", Kind.SERVING_KEY, api_certificate(inventory))
    yield row("issuer.key", Kind.SIGNING_KEY)
    if inventory.cluster.kubelet_auth == "webhook":
        client = Certificate("kubelet-client.crt", "kube-apiserver-kubelet-client", "clientAuth")
        yield row("kubelet-client.key", Kind.SERVING_KEY, client)


def _node_secrets(inventory: "Inventory", node: "Node") -> Iterator[Secret]:
    name, index = node.name, node.index
    with_primary = (name,) if node == inventory.primary else (inventory.primary.name, name)
    yield Secret(f"wgkube{index}.key", Kind.WIREGUARD, name, (name,))
    yield Secret(f"kube_token_{name}", Kind.TOKEN, name, with_primary)
    plan = inventory.addressing
    certificate = Certificate(
        file=f"kubelet_{name}.crt",
        common_name=f"kubelet-{name}",  # not the host name: a CN holds 64 characters, a domain may be longer
        usage="serverAuth",
        names=(plan.node_host(index),),
        addresses=(plan.host6(index), plan.host4(index)),
    )
    yield Secret(f"kubelet_{name}.key", Kind.SERVING_KEY, name, (name,), certificate)


def api_certificate(inventory: "Inventory") -> Certificate:
    """What the API server shows, with api.tls "pinned"."""
    plan, primary = inventory.addressing, inventory.primary.index
    service = "kubernetes.default.svc"
    names = [plan.api_internal_host, "kubernetes", "kubernetes.default", service, f"{service}.{plan.domain}"]
    addresses = [plan.api_service_ip, plan.host6(primary), plan.host4(primary)]
    external = inventory.cluster.api.external_host
    (addresses if _is_address(external) else names).insert(0, external)
    return Certificate(
        file=API_CERTIFICATE,
        common_name="kube-apiserver",
        usage="serverAuth",
        names=tuple(dict.fromkeys(names)),
        addresses=tuple(dict.fromkeys(addresses)),
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
