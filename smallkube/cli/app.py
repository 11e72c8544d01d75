"""The tree of tasks under their final names."""

from invoke.collection import Collection
from invoke.tasks import Task

from smallkube.cli import (
    admins,
    cluster,
    cluster_operations,
    cluster_report,
    conformance,
    deploy,
    doctor,
    encryption,
    etcd,
    init,
    inventory,
    keys,
    keys_hosts,
    keys_rotation,
    net,
    nix,
    nodes,
    nodes_clean,
    nodes_install,
    nodes_logs,
    nodes_removal,
    support,
    tokens,
    users,
)
from smallkube.core import ui

NAMESPACES = {
    "inventory": (inventory,),
    "nodes": (nodes, nodes_clean, nodes_install, nodes_logs, nodes_removal),
    "keys": (keys, keys_hosts, keys_rotation),
    "admins": (admins,),
    "nix": (nix,),
    "deploy": (deploy,),
    "etcd": (etcd,),
    "tokens": (tokens,),
    "users": (users,),
    "encryption": (encryption,),
    "cluster": (cluster, cluster_report, cluster_operations, conformance, support),
    "net": (net,),
}
"""Namespace → the modules with its tasks. A task called like its namespace is what the namespace alone runs."""


def tree(*more: Collection) -> Collection:
    """Every task of the product, and the namespaces ``more``."""
    ui.accept_any_text()  # before Invoke prints help
    root = Collection(doctor.doctor, init.init, *more)
    for name, modules in NAMESPACES.items():
        tasks = [each for module in modules for each in vars(module).values() if isinstance(each, Task)]
        root.add_collection(namespace := Collection(name))
        for task in tasks:
            namespace.add_task(task, default=task.name == name)
    return root
