"""Which secrets exist, and all that follows from each: the one table from which everything about secrets is derived.

A row says who may read the secret, which file it is on a machine (owner, group, mode), which systemd units use it,
whose API token it is and which clients use that, and which command rotates it. Generation, ``secrets.nix``, checks,
rendering, rotation, revocation and docs/security.md follow it. Pure: no I/O, and nothing imported that takes time.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from smallkube.inventory.addressing import is_address
from smallkube.secrets.fields import Client as Client  # noqa: PLC0414 - one module for those who import it
from smallkube.secrets.fields import Kind as Kind  # noqa: PLC0414
from smallkube.secrets.fields import User as User  # noqa: PLC0414

if TYPE_CHECKING:
    from smallkube.inventory.models import Inventory, Node

SUFFIX = ".age"
OLD = ".old"
NEW = ".new"
RETIRED = ".retired"
API_CERTIFICATE = "apiserver.crt"
_API = "kube-apiserver"
_IDENTITIES = (
    ("node", "kubelet", "system:nodes"),
    ("coredns", "coredns", "system:coredns"),
    ("kube-proxy", "kube-proxy", "system:node-proxiers"),
)
"""A node's users of the API server: ``system:WORD:HOST``, the unit that it is for, its group.

kubelets' names and their group are those that the Node authorizer demands; the others are bound in nix/addons.
"""


@dataclass(frozen=True)
class Certificate:
    """The public half of a key: a file in keys/ in clear, and what the certificate says.

    ``groups``: those of a user of the API server, as organizations beside its name; () where no user is meant.
    ``shown_at``: where it can be verified that it is in use. A URL is asked by every node, a path by the API server; ""
    for a client's certificate, which the servers check that it asks.
    """

    file: str
    common_name: str
    usage: Literal["serverAuth", "clientAuth"]
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    shown_at: str = ""
    groups: tuple[str, ...] = ()

    def version(self, word: str) -> "Certificate":
        """The one that is trusted as well during a rotation: ``word`` is OLD or NEW."""
        stem, dot, suffix = self.file.rpartition(".")
        return replace(self, file=f"{stem}{word}{dot}{suffix}")

    @property
    def trusted_files(self) -> tuple[str, ...]:
        """Those that the other side trusts, as far as they exist (see nix/modules/lib.nix)."""
        return (self.file, self.version(NEW).file, self.version(OLD).file)


@dataclass(frozen=True)
class Access:
    """The file under /run/agenix; ``mode`` is octal."""

    mode: str = "0400"
    owner: str = "root"
    group: str = "root"

    def __str__(self) -> str:
        """As ``stat -c '%a %U %G'`` prints it."""
        return f"{self.mode.lstrip('0')} {self.owner} {self.group}"


@dataclass(frozen=True)
class Secret:
    """One row of the table. ``readers`` are node names, by index; the master reads all.

    ``node`` is the node it belongs to; what belongs to the whole cluster belongs to the primary. ``units``: the systemd
    services that use it, on the readers that have them. ``version`` is "", OLD, NEW or RETIRED.
    """

    name: str
    kind: Kind
    node: str
    readers: tuple[str, ...]
    certificate: Certificate | None = None
    units: tuple[str, ...] = ()
    user: User | None = None
    access: Access = Access()
    version: str = ""

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
        """The previous version, still accepted during a rotation; same readers."""
        return self.as_version(OLD)

    @property
    def new(self) -> "Secret":
        """A version that is accepted during a rotation and not used: not yet, or aborted; same readers."""
        return self.as_version(NEW)

    @property
    def retired(self) -> "Secret":
        """A version that is accepted no more, kept until that has been verified; only the master reads it."""
        return replace(self.as_version(RETIRED), readers=())

    @property
    def versions(self) -> "tuple[Secret, ...]":
        """All that there may be besides the current one."""
        return (*self.staged, self.retired)

    @property
    def staged(self) -> "tuple[Secret, Secret]":
        """The versions that are accepted as well as the current one."""
        return (self.new, self.old)

    def staged_in(self, existing_files: Collection[str]) -> "Secret | None":
        """The staged version whose file exists."""
        return next((row for row in self.staged if row.file in existing_files), None)

    @property
    def in_use(self) -> bool:
        """Whether nodes get it: no retired version, and of a key with a certificate the current version only."""
        return bool(self.readers) and (self.kind is not Kind.SERVING_KEY or not self.version)

    @property
    def publishes_key(self) -> bool:
        """Whether peers.json has its public key."""
        return self.kind is Kind.WIREGUARD and not self.version

    def as_version(self, word: str) -> "Secret":
        """The version called OLD, NEW or RETIRED; same readers."""
        certificate = self.certificate and self.certificate.version(word)
        return replace(self, name=self.name + word, certificate=certificate, version=word)


def secrets_of(inventory: "Inventory") -> tuple[Secret, ...]:
    """Every secret that this inventory requires; those of the primary first, then node by node."""
    rows = list(_cluster_secrets(inventory))
    for node in inventory.nodes:
        rows += _node_secrets(inventory, node)
    return tuple(rows)


def tokens(inventory: "Inventory") -> dict[str, Secret]:
    """The API tokens, by the short name of their user."""
    return {row.user.short: row for row in secrets_of(inventory) if row.user and row.kind is Kind.TOKEN}


def identities(inventory: "Inventory") -> tuple[Secret, ...]:
    """The keys of the nodes' users of the API server, whose certificates it accepts."""
    return tuple(row for row in secrets_of(inventory) if row.user and row.certificate)


def node_tokens(inventory: "Inventory") -> tuple[Secret, ...]:
    """The API tokens by which nodes identified themselves in earlier versions: accepted while their files exist."""
    plan, primary = inventory.addressing, inventory.primary.name
    return tuple(
        Secret(
            f"kube_token_{node.name}",
            Kind.TOKEN,
            node.name,
            tuple(dict.fromkeys((primary, node.name))),
            units=(_API,),
            user=User(f"system:node:{plan.node_host(node.index)}", node.name, ("system:nodes",)),
        )
        for node in inventory.nodes
    )


def expected(inventory: "Inventory", existing_files: Collection[str]) -> tuple[Secret, ...]:
    """The table, with what may be beside: other versions of each secret, earlier tokens of nodes, keys of people."""
    staged = [file for file in existing_files if file.endswith(tuple(word + SUFFIX for word in (OLD, NEW, RETIRED)))]
    rows: list[Secret] = []
    for secret in secrets_of(inventory):
        rows += [secret, *(row for row in (secret.versions if staged else ()) if row.file in existing_files)]
    earlier = (each for row in node_tokens(inventory) for each in (row, *(row.versions if staged else ())))
    names = (file[5:-8] for file in sorted(existing_files) if file.startswith("user_") and file.endswith(".key.age"))
    return (*rows, *(row for row in earlier if row.file in existing_files), *map(person_key, names))


def person_key(name: str) -> Secret:
    """The private key of a person that was made here; no node reads it."""
    return Secret(f"user_{name}.key", Kind.PERSON_KEY, "node1", ())


def secrets_by_node(inventory: "Inventory", existing_files: Collection[str]) -> dict[str, dict[str, Secret]]:
    """What each node (name) may read, by its name under /run/agenix (``{"node2": {"wgkube.key": <wgkube2.key>}}``).

    ``existing_files`` are the names in keys/; from them only the versions of a rotation are taken.
    """
    found: dict[str, dict[str, Secret]] = {node.name: {} for node in inventory.nodes}
    for row in expected(inventory, existing_files):
        for reader in row.readers if row.in_use else ():
            found[reader][row.name_on(reader)] = row
    return found


def certificates(inventory: "Inventory") -> tuple[Certificate, ...]:
    """Those that accompany the secrets."""
    return tuple(row.certificate for row in secrets_of(inventory) if row.certificate)


def certificate_files(rows: Iterable[Secret]) -> tuple[str, ...]:
    """The files of their certificates."""
    return tuple(row.certificate.file for row in rows if row.certificate)


def public_files(inventory: "Inventory", existing_files: Collection[str] = ()) -> tuple[str, ...]:
    """The files of the certificates; of their staged versions, those in ``existing_files``."""
    wanted = certificates(inventory)
    staged = (file for each in wanted for file in each.trusted_files[1:] if file in existing_files)
    return (*(each.file for each in wanted), *staged)


def _cluster_secrets(inventory: "Inventory") -> Iterator[Secret]:
    primary = inventory.primary.name

    def row(name: str, kind: Kind, *units: str, user: User | None = None, over: Certificate | None = None) -> Secret:
        return Secret(name, kind, primary, (primary,), over, (_API, *units), user)

    root = User("root", "root", ("system:masters",), (Client("root", "/run/kubeconfig-root"),))
    jobs = ("kube-activation", "kube-node-roles")
    yield row("kube_token_root", Kind.TOKEN, "generate-kubeconfig-root", *jobs, user=root)
    for unit in ("kube-controller-manager", "kube-scheduler"):
        name = f"kube_token_system_{unit}"
        yield row(name, Kind.TOKEN, unit, user=User(f"system:{unit}", unit, (), (Client(unit, f"%d/{name}"),)))
    yield row("EncryptionConfiguration.yaml", Kind.ENCRYPTION)
    if inventory.cluster.api.tls == "pinned":
        yield row("apiserver.key", Kind.SERVING_KEY, over=api_certificate(inventory))
    yield row("issuer.key", Kind.SIGNING_KEY, "kube-controller-manager")
    proxy = Certificate("front-proxy-client.crt", "front-proxy-client", "clientAuth")
    yield row("front-proxy-client.key", Kind.SERVING_KEY, over=proxy)
    if inventory.cluster.kubelet_auth == "webhook":
        client = Certificate("kubelet-client.crt", "kube-apiserver-kubelet-client", "clientAuth")
        yield row("kubelet-client.key", Kind.SERVING_KEY, over=client)
    if inventory.cluster.monitoring:
        yield _monitoring_secret(primary)


def _monitoring_secret(primary: str) -> Secret:
    """By which a Prometheus on the primary, if there is one, reads metrics (nix/addons/monitoring.yaml)."""
    user = User("system:metrics-scraper", "monitoring")
    certificate, access = Certificate("monitoring.crt", user.name, "clientAuth"), Access("0440", group="prometheus")
    return Secret("monitoring.key", Kind.SERVING_KEY, primary, (primary,), certificate, user=user, access=access)


def _node_secrets(inventory: "Inventory", node: "Node") -> Iterator[Secret]:
    name, index, plan = node.name, node.index, inventory.addressing
    host = plan.node_host(index)
    readable_by_networkd = Access("0440", group="systemd-network")
    yield Secret(
        f"wgkube{index}.key", Kind.WIREGUARD, name, (name,), units=("systemd-networkd",), access=readable_by_networkd
    )
    certificate = Certificate(
        file=f"kubelet_{name}.crt",
        common_name=f"kubelet-{name}",  # not the host name: a CN holds 64 characters, a domain may be longer
        usage="serverAuth",
        names=(host,),
        addresses=(plan.host6(index), plan.host4(index)),
        shown_at=f"/api/v1/nodes/{host}/proxy/healthz",
    )
    yield Secret(f"kubelet_{name}.key", Kind.SERVING_KEY, name, (name,), certificate, ("kubelet",))
    for word, unit, group in _IDENTITIES:
        user = User(f"system:{word}:{host}", f"{unit}-{name}", (group,))
        identity = Certificate(f"{word}_{name}.crt", user.name, "clientAuth", groups=user.groups)
        yield Secret(f"{word}_{name}.key", Kind.SERVING_KEY, name, (name,), identity, (unit,), user)


def api_certificate(inventory: "Inventory") -> Certificate:
    """What the API server shows, with api.tls "pinned"."""
    plan, primary = inventory.addressing, inventory.primary.index
    service = "kubernetes.default.svc"
    names = [plan.api_internal_host, "kubernetes", "kubernetes.default", service, f"{service}.{plan.domain}"]
    addresses = [plan.api_service_ip, plan.host6(primary), plan.host4(primary)]
    external = inventory.cluster.api.external_host
    (addresses if is_address(external) else names).insert(0, external)
    return Certificate(
        file=API_CERTIFICATE,
        common_name="kube-apiserver",
        usage="serverAuth",
        names=tuple(dict.fromkeys(names)),
        addresses=tuple(dict.fromkeys(addresses)),
        shown_at=f"https://{plan.api_internal_host}:{inventory.cluster.api.port}/api",
    )
