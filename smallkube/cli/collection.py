"""The tree of tasks under their final names."""

from invoke.collection import Collection

from smallkube.cli import (
    cluster,
    cluster_recovery,
    cluster_state,
    cluster_upgrade,
    deploy,
    doctor,
    encryption,
    etcd,
    etcd_restore,
    inventory,
    keys,
    keys_master,
    keys_rotation,
    keys_trust,
    lab,
    net,
    nix,
    nodes,
    tokens,
)

namespace = Collection(doctor.doctor)
for module in (inventory, nodes, keys, nix, deploy, etcd, tokens, encryption, cluster, net, lab):
    namespace.add_collection(Collection.from_module(module), name=module.__name__.rsplit(".", 1)[-1])
for name, tasks in {
    "keys": (
        keys_rotation.rotate_wireguard,
        keys_trust.rotate_certificates,
        keys_trust.rotate_issuer,
        keys_master.rotate_master,
    ),
    "etcd": (etcd_restore.restore, etcd_restore.drill, etcd_restore.status),
    "cluster": (
        cluster_state.status,
        cluster_state.kubeconfig,
        cluster_state.upgrade_check,
        cluster_recovery.rebuild_primary,
        cluster_upgrade.upgrade,
    ),
}.items():
    for each in tasks:
        namespace.collections[name].add_task(each)
