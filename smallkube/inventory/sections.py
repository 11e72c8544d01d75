"""The sections of inventory.yaml below ``cluster``: each key with its type, default, description and example."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from smallkube.inventory import fields
from smallkube.inventory.admins import Admins
from smallkube.inventory.fields import PullPolicy, SecurityLevel


def key(description: str, *examples: Any) -> Any:
    """What the reference says of a key; an example is a value of the key as the file has it."""
    return Field(description=description, examples=list(examples))


class Model(BaseModel):
    """Strict (no guessing of types), frozen, and closed to unknown keys."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)


class Api(Model):
    """Where clients find the API server, and how they know it is the right one."""

    external_host: Annotated[
        fields.DnsName,
        key(
            "DNS name of the primary, by which clients outside of the cluster reach the API server. It is also part "
            "of the issuer of ServiceAccount tokens.",
            "kube.example.com",
        ),
    ] = "test-kube.example.com"
    port: Annotated[fields.Port, key("Port of the API server. 10250 is the kubelet's.", 8443)] = 6443
    tls: Annotated[
        Literal["pinned", "insecure"],
        key(
            "`pinned`: clients accept exactly the certificate in keys/. `insecure`: they verify none, only the tunnel "
            "protects.",
            "pinned",
        ),
    ] = "pinned"
    allow_from: Annotated[
        tuple[fields.Cidr, ...],
        key(
            "Networks that may reach the API server besides tunnel and nodes. Everyone: `0.0.0.0/0` and `::/0`.",
            ["192.168.0.0/24"],
        ),
    ] = ()
    previous_issuers: Annotated[
        tuple[fields.Issuer, ...],
        key(
            "Issuers, as https://HOST:PORT, whose ServiceAccount tokens are accepted, too: after a change of "
            "`external_host` or `port`, until no pod has such a token.",
            ["https://old.example.com:6443"],
        ),
    ] = ()

    @property
    def issuer(self) -> str:
        """What new tokens of service accounts name as their issuer (kube.api.externalUrl in nix/modules/api.nix)."""
        return f"https://{self.external_host}:{self.port}"


class Network(Model):
    """The cluster's networks and the tunnel."""

    prefix6: Annotated[
        fields.Prefix6,
        key("First 16 bits of the IPv6 addresses: node N has `fd88:N::/32` for itself and its pods.", "fd42"),
    ] = "fd88"
    prefix4: Annotated[
        fields.Prefix4,
        key(
            "First two numbers of the IPv4 addresses, in a private range: node N has `10.88.N.0/24` for itself and its "
            "pods. N = 0 is for the Services.",
            "10.42",
        ),
    ] = "10.88"
    services4: Annotated[
        fields.Cidr4 | None,
        key(
            "IPv4 range of the Services, /12 to /29, in N = 0 or outside of `prefix4`; chosen before the first deploy. "
            "`null`: `10.88.0.0/24`.",
            "10.89.0.0/16",
        ),
    ] = None
    services6: Annotated[
        fields.Cidr6 | None,
        key("IPv6 range of the Services, /108 to /125, for dual-stack Services. `null`: none.", "fd88::/112"),
    ] = None
    prefer: Annotated[
        Literal["ipv4", "ipv6"], key("Family of the first address of nodes and pods, which have one of each.", "ipv6")
    ] = "ipv4"
    open_to_pods: Annotated[
        tuple[fields.Port, ...], key("TCP and UDP ports of the nodes that pods may reach; never 10250.", [9100])
    ] = ()
    node_ports: Annotated[
        tuple[Literal["tunnel", "lan"], ...],
        Field(min_length=1),
        key(
            "Where NodePorts answer. `tunnel`: the cluster addresses of the nodes. `lan`: their `peer_ip`.",
            ["tunnel", "lan"],
        ),
    ] = ("tunnel",)
    external_ips: Annotated[
        bool,
        key("Whether Services may have externalIPs, by which who writes a Service can take over an address.", True),
    ] = False
    private: Annotated[
        tuple[fields.Cidr, ...],
        key(
            "Networks that WireGuard packets may come from, where peers are behind NAT. Empty: exactly the addresses "
            "of the peers.",
            ["192.168.0.0/16"],
        ),
    ] = ()
    mtu: Annotated[
        int, Field(ge=1280, le=65455), key("MTU of the tunnel and of pods: at most the network's less 80.", 1340)
    ] = 1420
    wireguard_port: Annotated[fields.Port, key("UDP port of the tunnel on each node.", 51821)] = 51820
    persistent_keepalive: Annotated[
        Annotated[int, Field(ge=1, le=65535)] | None,
        key("Seconds between packets that keep a NAT's mapping of the tunnel open. `null`: none are sent.", 25),
    ] = None


class PodSecurity(Model):
    """Which Pod Security Standard pods must meet where their namespace has no label of its own."""

    enforce: Annotated[
        SecurityLevel,
        key("Level that pods must meet; others are refused. `privileged` allows any pod.", "restricted"),
    ] = "baseline"
    warn: Annotated[
        SecurityLevel | None,
        key("Level below which kubectl warns, also of Deployments. `null`: that of `enforce`.", "restricted"),
    ] = None
    exempt_namespaces: Annotated[
        tuple[fields.Namespace, ...],
        key(
            "Namespaces in which every pod may run, whatever their labels are. Your list replaces the default.",
            ["kube-system", "storage"],
        ),
    ] = ("kube-system",)


class Secrets(Model):
    """Who reads the secrets, and what etcd has encrypted."""

    admins: Annotated[
        Admins,
        key(
            "Administrators, who can read every secret and backup: name and recipient (`age1…`, `ssh-ed25519 AAAA…`, "
            "or `age1PLUGIN1…` of an age plugin). Empty: keys/master_key alone. `inv admins.add` adds one.",
            {"anna": "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"},
        ),
    ] = {}
    encrypted_resources: Annotated[
        tuple[fields.Resource, ...],
        Field(min_length=1),
        key(
            "Resources that the API server encrypts in etcd. `inv encryption.rotate` adds to them; none can be "
            "taken away.",
            ["secrets", "configmaps"],
        ),
    ] = ("secrets",)


class Keep(Model):
    """How many backups are kept: of days, weeks and months (UTC) without one, an earlier one takes the place."""

    last: Annotated[int, Field(ge=1, le=10_000), key("The newest ones.", 3)] = 7
    daily: Annotated[fields.Count, key("The newest of each of so many days.", 7)] = 14
    weekly: Annotated[fields.Count, key("The newest of each of so many weeks.", 4)] = 8
    monthly: Annotated[fields.Count, key("The newest of each of so many months.", 24)] = 12


class Backup(Model):
    """Where etcd's snapshots go, and what is notified."""

    dir: Annotated[
        fields.Text, key("Folder of the backups: a path, or one relative to the workspace.", "/srv/backups")
    ] = "backups"
    keep: Annotated[Keep, key("How many backups are kept.", {"last": 3, "daily": 30})] = Keep()
    ping_url: Annotated[
        Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] | None,
        key(
            "URL that is requested after each backup that succeeded; after a failed one, with `/fail` appended.",
            "https://hc.example.com/ping/backup",
        ),
    ] = None
    metrics_file: Annotated[
        fields.Text | None,
        key(
            "File of metrics for the textfile collector of Prometheus' node exporter.",
            "/var/lib/node-exporter/etcd.prom",
        ),
    ] = None
    copy_to: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^sftp://\S+$")], ...],
        key(
            "Further places that each backup is copied to, as sftp://USER@HOST/PATH.",
            ["sftp://backup@nas.example.com/etcd"],
        ),
    ] = ()


class Smoke(Model):
    """What the pods of the smoke test run."""

    image: Annotated[
        str,
        StringConstraints(pattern=r"^\S+$"),
        key("Image of a busybox that every node can get.", "registry.example.com/busybox:1.37"),
    ] = "docker.io/library/busybox:1.37"
    pull_policy: Annotated[PullPolicy, key("When nodes pull it. `Never`: it is on all of them already.", "Never")] = (
        "IfNotPresent"
    )
