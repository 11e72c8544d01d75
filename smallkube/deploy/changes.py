"""Values that a live cluster can't take by a mere deploy: compared with what the machines have, before it is sent."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from smallkube.core.errors import ErrorGroup, UsageError
from smallkube.deploy import history
from smallkube.inventory.changes import KINDS, Kind
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.remote import fleet
from smallkube.remote.command import Command
from smallkube.remote.host import Connect, Host
from smallkube.remote.scripts import HOME
from smallkube.secrets import age, kinds, policy, transaction

FILE = "nix/rendered/cluster.nix"
RENDERED = {
    "cluster.domain": "domain",
    "cluster.network.prefix4": "prefix4",
    "cluster.network.prefix6": "prefix6",
    "cluster.api.external_host": "externalHost",
    "cluster.api.port": "port",
}
"""Path of a field → its name in FILE."""
HINTS = {
    Kind.ROTATION: "pods' tokens would be refused until kubelets renew them; to accept that, pass --accept-changes",
    Kind.REBUILD: "it needs a new cluster, on reinstalled machines; restore the previous value",
}
_VALUE = re.compile(r'^ +(\w+) = "?([a-z0-9.-]{1,253})"?;$', re.MULTILINE)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OWN_KEY = re.compile(r"^wgkube([1-9][0-9]{0,2})\.key$", re.MULTILINE)


@dataclass(frozen=True)
class Deployed:
    """What a machine got last: the ``values`` of FILE by their names there, and the ``index`` of its node, or ""."""

    index: str
    values: Mapping[str, str]


def check(cluster: Cluster, nodes: Sequence[Node], rendered: bytes, connect: Connect) -> None:
    """Raise ErrorGroup for the values of the inventory that were deployed otherwise, and that a deploy can't change.

    ``rendered``: FILE of now. Asks ``nodes`` and the primary; a machine that can't be reached has no say.
    """

    def ask(node: Node) -> Deployed:
        with connect(node) as host:
            return read(host)

    now = values(rendered.decode())
    outcomes = fleet.run([tuple(dict.fromkeys((cluster.inventory.primary, *nodes)))], ask)
    found = [(out.node, out.value) for out in outcomes if out.value]
    problems = [*_shrunk(cluster), *(problem for node, last in found for problem in compare(node, last, now))]
    if problems:
        raise ErrorGroup([*{str(problem): problem for problem in problems}.values()])


def values(text: str) -> dict[str, str]:
    """Those values of FILE that are compared, by their names there; of a text that is none, none."""
    return {name: value for name, value in _VALUE.findall(text) if name in RENDERED.values()}


def read(host: Host) -> Deployed:
    """What was deployed to this machine last, as far as it still has it. Raises SmallkubeError."""
    last = history.last_effective(history.read(host))
    text = ""
    if last and _DIGEST.fullmatch(last.digest):
        text = host.run(Command(("cat", f"{HOME}/bundles/{last.digest}/{FILE}"), title="deployed values")).text
    own = _OWN_KEY.findall(host.run(Command(("ls", "/run/agenix"), title="deployed secrets")).text)
    return Deployed(own[0] if len(own) == 1 else "", values(text))


def compare(node: Node, last: Deployed, now: Mapping[str, str]) -> Iterator[UsageError]:
    """What ``node`` can't take, in words; ``now``: the values of FILE."""
    for field, name in RENDERED.items():
        if name in last.values and last.values[name] != now.get(name):
            problem = f"is {now.get(name)}, but {last.values[name]} was deployed; nothing was sent"
            yield UsageError(problem, where=field, hint=HINTS[KINDS[field]])
    if last.index and last.index != str(node.index):
        problem = f"this machine was deployed as node{last.index}; nothing was sent"
        hint = f"name it node{last.index} in inventory.yaml, or reinstall it"
        yield UsageError(problem, where=node.name, hint=hint)


def _shrunk(cluster: Cluster) -> Iterator[UsageError]:
    """Resources whose objects are encrypted in etcd, and that the inventory names no more; needs the master key."""
    master, keys = age.read_master(cluster.workspace), transaction.read_keys(cluster.workspace)
    row = next(row for row in policy.secrets_of(cluster.inventory) if row.kind is policy.Kind.ENCRYPTION)
    if master and row.file in keys.files:
        encrypted = kinds.encrypted_resources(transaction.opened(keys, master, row))
        if gone := [name for name in encrypted if name not in cluster.inventory.cluster.secrets.encrypted_resources]:
            problem = f"lacks {', '.join(gone)}, whose objects are encrypted in etcd; nothing was sent"
            hint = "name it there again: resources can be added (inv encryption.rotate), not taken away"
            yield UsageError(problem, where="cluster.secrets.encrypted_resources", hint=hint)
