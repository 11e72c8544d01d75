"""The tree of tasks under their final names: all of it, or as much as a command line needs."""

import gc
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from invoke.collection import Collection
from invoke.tasks import Task

from smallkube.cli.manifest import LINES
from smallkube.core import ui

NAMESPACES = {
    "": ("doctor", "init"),
    "inventory": ("inventory",),
    "nodes": ("nodes", "nodes_clean", "nodes_install", "nodes_logs", "nodes_removal"),
    "keys": ("keys", "keys_hosts", "keys_rotation"),
    "admins": ("admins",),
    "nix": ("nix",),
    "deploy": ("deploy",),
    "etcd": ("etcd",),
    "tokens": ("tokens",),
    "users": ("users",),
    "encryption": ("encryption",),
    "cluster": ("cluster", "cluster_report", "cluster_operations", "conformance", "support"),
    "net": ("net",),
}
"""Namespace → the modules of this package with its tasks. A task called like its namespace is its default."""

Lines = Mapping[str, Mapping[str, str]]
"""Module → its tasks (``deploy.plan``) → their lines in `inv --list`: what `make docs` makes (docs/reference.py)."""


def tree(*more: Collection) -> Collection:
    """Every task of the product, and the namespaces ``more``."""
    ui.accept_any_text()  # before Invoke prints help
    root = Collection(*more)
    for namespace, modules in NAMESPACES.items():
        for task in (task for module in modules for task in _tasks(f"{__package__}.{module}").values()):
            _add(root, namespace, task)
    return root


def needed(line: str, *more: Lines) -> Collection:
    """The same for one command ``line``: imported are the modules of those tasks alone that it names.

    The others have their names and what `inv --list` shows; a command line that doesn't name them asks for no more.
    """
    gc.set_threshold(10_000)  # hardly anything that is imported is garbage, but it would be looked through often
    ui.accept_any_text()
    root = Collection()
    for module, texts in ((module, texts) for lines in (LINES, *more) for module, texts in lines.items()):
        made = _tasks(module) if any(_typed(name) in line for name in texts) else {}
        for name, text in texts.items():
            namespace, _, own = name.rpartition(".")
            _add(root, namespace, made[own] if made else _Listed(own, text))
    return root


def lines(root: Collection, package: str) -> Lines:
    """Those of the tasks of ``root`` that are defined in ``package``."""
    found: dict[str, dict[str, str]] = {}
    for name in root.task_names:
        task = root[name]
        if task.__module__.startswith(f"{package}."):
            found.setdefault(task.__module__, {})[name] = (task.__doc__ or "").strip().partition("\n")[0]
    return found


class _Listed(Task[Any]):
    """A task that is not imported."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(_not_imported, name)
        self.__doc__ = text


def _not_imported(_context: object) -> None:
    """Never runs: a command line that names a task imports it."""
    raise RuntimeError("a task runs that the command line does not name")


def _tasks(module: str) -> dict[str, Task[Any]]:
    """Name → task, in the order of the module."""
    found = (each for each in vars(import_module(module)).values() if isinstance(each, Task))
    return {Collection().transform(task.name): task for task in found}


def _typed(name: str) -> str:
    """What is typed for it at least: the namespace alone for its default."""
    namespace, _, own = name.partition(".")
    return namespace if namespace == own else name


def _add(root: Collection, namespace: str, task: Task[Any]) -> None:
    if namespace and namespace not in root.collections:
        root.add_collection(Collection(namespace))
    place = root.collections[namespace] if namespace else root
    place.add_task(task, default=task.name == namespace)
