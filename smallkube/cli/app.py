"""The tree of tasks under their final names."""

from invoke.collection import Collection

from smallkube.cli import (
    cluster,
    cluster_operations,
    deploy,
    doctor,
    encryption,
    etcd,
    etcd_restore,
    inventory,
    keys,
    keys_rotation,
    net,
    nix,
    nodes,
    tokens,
)


def tree(*more: Collection) -> Collection:
    """Every task of the product, and the namespaces ``more``."""
    return Collection(
        doctor.doctor,
        Collection("inventory", inventory.check, inventory.schema, inventory.show),
        Collection("nodes", nodes.add, nodes.remove, nodes.exec_, nodes.drain, nodes.uncordon, nodes.reboot),
        Collection(
            "keys",
            *(keys.scan, keys.generate, keys.check, keys.rekey, keys.list_, keys.show, keys.edit),
            keys_rotation.rotate_wireguard,
            keys_rotation.rotate_certificates,
            keys_rotation.rotate_issuer,
            keys_rotation.rotate_master,
        ),
        Collection("nix", nix.render, nix.check),
        Collection("deploy", deploy.deploy, deploy.plan, deploy.status, deploy.history, deploy.rollback),
        Collection(
            "etcd",
            *(etcd.backup, etcd.list_, etcd.verify, etcd.prune, etcd.schedule, etcd.status),
            *(etcd_restore.restore, etcd_restore.drill),
        ),
        Collection("tokens", tokens.rotate, tokens.status),
        Collection("encryption", encryption.rotate),
        Collection(
            "cluster",
            *(cluster.smoke, cluster.status, cluster.kubeconfig),
            cluster_operations.upgrade_check,
            cluster_operations.upgrade,
            cluster_operations.rebuild_primary,
        ),
        Collection("net", net.check),
        *more,
    )
