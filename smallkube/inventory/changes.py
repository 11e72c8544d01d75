"""What it takes to change each value of inventory.yaml in a cluster that runs: the one table of it."""

from enum import StrEnum


class Kind(StrEnum):
    """What a change of a value needs."""

    FREE = "a deploy"
    UPGRADE = "inv cluster.upgrade, which verifies each step"
    ROTATION = "that clients accept both values for a while"
    REBUILD = "a new cluster"


_FREE = (
    *("cluster.name", "cluster.addons", "cluster.monitoring", "cluster.kubelet_auth"),
    "cluster.secrets.admins",
    *("cluster.api.tls", "cluster.api.allow_from", "cluster.api.previous_issuers"),
    *("cluster.network.open_to_pods", "cluster.network.node_ports", "cluster.network.private", "cluster.network.mtu"),
    *("cluster.network.prefer", "cluster.network.services6", "cluster.network.external_ips"),
    *(f"cluster.pod_security.{key}" for key in ("enforce", "warn", "exempt_namespaces")),
    *("cluster.network.wireguard_port", "cluster.network.persistent_keepalive"),
    *("cluster.backup.dir", "cluster.backup.ping_url", "cluster.backup.metrics_file", "cluster.backup.copy_to"),
    *(f"cluster.backup.keep.{period}" for period in ("last", "daily", "weekly", "monthly")),
    "cluster.kubernetes_nixpkgs",  # the modules refuse another minor
    *("cluster.smoke.image", "cluster.smoke.pull_policy"),
    *("nodes.peer_ip", "nodes.tags", "nodes.labels", "nodes.taints", "nodes.size", "nodes.checks"),
    *("nodes.ssh.host", "nodes.ssh.port", "nodes.ssh.user", "nodes.ssh.become"),
)

KINDS = {
    **dict.fromkeys(_FREE, Kind.FREE),
    "cluster.kubernetes": Kind.UPGRADE,
    "cluster.nixos": Kind.UPGRADE,
    "cluster.api.external_host": Kind.ROTATION,
    "cluster.api.port": Kind.ROTATION,
    "cluster.secrets.encrypted_resources": Kind.ROTATION,
    "cluster.domain": Kind.REBUILD,
    "cluster.network.prefix4": Kind.REBUILD,
    "cluster.network.services4": Kind.REBUILD,
    "cluster.network.prefix6": Kind.REBUILD,
    "nodes.name": Kind.REBUILD,
    "nodes.index": Kind.REBUILD,
}
"""Path of the field in the models (``nodes``: of a Node, whose role follows from its index) → kind of its change."""
