"""What the shell completes: the values of flags, and the names that tasks take, as the workspace has them."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import get_args

from smallkube.cli.context import Current
from smallkube.core.errors import SmallkubeError

Known = Callable[[Current], Iterable[str]]


def _nodes(here: Current) -> Iterable[str]:
    return [node.name for node in here.inventory.nodes]


def _tags(here: Current) -> Iterable[str]:
    return sorted({tag for node in here.inventory.nodes for tag in node.tags})


def _goals(_: Current) -> Iterable[str]:
    from smallkube.deploy.plan import Goal

    return Goal


def _units(_: Current) -> Iterable[str]:
    from smallkube.deploy.facts import NODE_UNITS, PRIMARY_UNITS

    return (*NODE_UNITS, *PRIMARY_UNITS)


def _backups(here: Current) -> Iterable[str]:
    from smallkube.etcd import catalog

    return [record.name for record in catalog.read(catalog.folder_of(here.cluster)).records]


def _checks(_: Current) -> Iterable[str]:
    from smallkube.smoke.table import GROUPS, NAMES

    return (*GROUPS, *NAMES)


def _secrets(here: Current) -> Iterable[str]:
    return sorted(path.stem for path in here.workspace.keys_dir.glob("*.age"))


def _token_users(here: Current) -> Iterable[str]:
    from smallkube.secrets import policy

    return policy.tokens(here.inventory)


def _people(here: Current) -> Iterable[str]:
    from smallkube.secrets import people

    return people.read(here.workspace)


def _admins(here: Current) -> Iterable[str]:
    return here.inventory.cluster.secrets.admins


def _pull_policies(_: Current) -> Iterable[str]:
    from smallkube.inventory.fields import PullPolicy

    return get_args(PullPolicy)


def _words(*words: str) -> Known:
    return lambda _: words


FLAGS: Mapping[str, Known] = {
    "--node": _nodes,
    "--tag": _tags,
    "--role": _words("primary", "worker"),
    "users.add --role": _words("view", "edit", "admin", "cluster-admin", "none"),
    "--goal": _goals,
    "--build-on": _words("target", "local"),
    "--become": _words("none", "sudo"),
    "--via": _words("external", "tunnel"),
    "--pull-policy": _pull_policies,
    "--only": _checks,
    "--skip": _checks,
    "--backup": _backups,
    "etcd.restore --name": _backups,
    "etcd.drill --name": _backups,
    "etcd.verify --name": _backups,
    "tokens.rotate --user": _token_users,
    "cluster.audit --user": _people,
}
"""Flag, or task and flag → its values."""
WORDS: Mapping[str, Known] = {
    "nodes.remove": _nodes,
    "nodes.logs": _units,
    "keys.new-host": _nodes,
    "keys.show": _secrets,
    "keys.edit": _secrets,
    "admins.remove": _admins,
    "users.add": _people,
    "users.kubeconfig": _people,
    "users.remove": _people,
}
"""Task → what its first word may be."""


def values(line: str) -> list[str]:
    """What may stand at the end of a command ``line``, of which the last word may be unfinished.

    Nothing where that is not known, or where the workspace can't be read. Of a list with commas, the whole of it.
    """
    try:
        words = shlex.split(line)
    except ValueError:  # an open quote
        return []
    task = next((word for word in words[1:] if not word.startswith("-")), "")
    flag = next((word for word in reversed(words[-2:]) if word.startswith("-")), "")
    known = FLAGS.get(f"{task} {flag}") or FLAGS.get(flag)
    if not flag and task in words[-2:]:
        known = WORDS.get(task)
    if not known:
        return []
    before = [] if words[-1] in (flag, task) else words[-1].split(",")[:-1]
    with suppress(SmallkubeError):
        return [",".join((*before, value)) for value in known(Current()) if value not in before]
    return []
