"""Values that a live cluster can't take by a mere deploy: compared with what the machines have, before it is sent."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from smallkube.core.errors import ErrorGroup, UsageError, listed
from smallkube.deploy.facts import Deployed
from smallkube.inventory.addressing import Addressing
from smallkube.inventory.changes import KINDS, Kind
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.secrets import age, kinds, policy, transaction

FILES = ("nix/rendered/cluster.nix", "nix/flake.nix")
"""Where the values are, of which no name is in both."""
RENDERED = {
    "cluster.domain": "domain",
    "cluster.network.prefix4": "prefix4",
    "cluster.network.prefix6": "prefix6",
    "cluster.api.external_host": "externalHost",
    "cluster.api.port": "port",
    "cluster.kubernetes": "kubernetesMinor",
    "cluster.nixos": "nixpkgs.url",
}
"""Path of a field that needs more than a deploy → its name in FILES."""
_PREFER = "prefer"
_FAMILIES = {"ipv4": "IPv4", "ipv6": "IPv6"}
_NAMES = (*RENDERED.values(), "services4", "services6", _PREFER)
_HINTS = {
    Kind.UPGRADE: "run `inv cluster.upgrade`, or restore the previous value",
    Kind.REBUILD: "it needs a new cluster, on reinstalled machines; restore the previous value",
}
_VALUE = re.compile(
    r'^ +(nixpkgs\.url|\w+) = "?(?:github:NixOS/nixpkgs/nixos-)?([a-z0-9.:/-]{1,253})"?;$', re.MULTILINE
)
_OWN_KEY = re.compile(r"wgkube([1-9][0-9]{0,2})\.key")


@dataclass(frozen=True)
class LastValues:
    """What a machine got last: the ``values`` of FILES by their names there, and the ``index`` of its node, or ""."""

    index: str
    values: Mapping[str, str]


def check(cluster: Cluster, found: Mapping[str, Deployed], files: Mapping[str, bytes], *, versions: bool) -> None:
    """Raise ErrorGroup for the values of the inventory that were deployed otherwise, and that a deploy can't change.

    ``found``: node → what it says was deployed to it; machines that could not be asked have no say. ``files``:
    what Nix sees now. ``versions``: also for those that an upgrade changes.
    """
    problems = [*_shrunk(cluster)]
    now = values("".join(files[file].decode() for file in FILES if file in files))
    for name, there in found.items():
        node, accepted = cluster.inventory.node(name), cluster.inventory.cluster.api.previous_issuers
        problems += compare(node, last(there), now, accepted, versions=versions)
    if problems:
        raise ErrorGroup([*{str(problem): problem for problem in problems}.values()])


def values(text: str) -> dict[str, str]:
    """Those values of FILES that are compared, by their names there; of a text that is none, none."""
    return {name: value for name, value in _VALUE.findall(text) if name in _NAMES}


def last(there: Deployed) -> LastValues:
    """What was deployed to this machine last, as far as it still has it."""
    prefixes = [f"{there.effective[0].digest}/{file}:" for file in FILES if there.effective]
    lines = [line.removeprefix(prefix) for prefix in prefixes for line in there.rendered if line.startswith(prefix)]
    own = [found[1] for name in there.own_keys if (found := _OWN_KEY.fullmatch(name))]
    return LastValues(own[0] if len(own) == 1 else "", values("\n".join(lines)))


def _other_services(last: Mapping[str, str], now: Mapping[str, str]) -> Iterator[UsageError]:
    """Other ranges of Services than the API server takes: it adds a second one to the first, and changes none.

    kubernetes/pkg/controlplane/controller/defaultservicecidr, ``sync``. Other prefixes are a fault by themselves.
    """
    previous, wanted = services(last), services(now)
    same_prefixes = all(last.get(name) == now.get(name) for name in ("prefix4", "prefix6"))
    if last and same_prefixes and wanted[: len(previous)] != previous:
        problem = f"Services would be in {', '.join(wanted)}, but {', '.join(previous)} was deployed; nothing was sent"
        hint = "restore services4, services6 and prefer; the one possible change adds a second range after the first"
        yield UsageError(problem, where="cluster.network", hint=hint)


def services(found: Mapping[str, str]) -> tuple[str, ...]:
    """The Services' ranges by these values; versions without their keys had one of IPv4."""
    six = found.get("services6", "null")
    plan = Addressing(
        prefix4=found.get("prefix4", ""),
        prefer=found.get(_PREFER, ""),
        services4=found.get("services4", ""),
        services6="" if six == "null" else six,
    )
    return plan.services


def warnings(found: Mapping[str, Deployed], files: Mapping[str, bytes]) -> Iterator[str]:
    """What a deploy changes beyond the machines themselves; the arguments are those of ``check``."""
    wanted = values(files[FILES[0]].decode())[_PREFER]
    lasts = {name: last(there).values for name, there in found.items()}
    # Versions without the key made IPv6 the first family.
    if nodes := [name for name, there in lasts.items() if there and there.get(_PREFER, "ipv6") != wanted]:
        first = f"the first address of {listed(nodes)} and of their pods will be {_FAMILIES[wanted]}"
        yield f"cluster.network.prefer: {first}; pods that run keep both addresses and their DNS server"


def compare(
    node: Node, last: LastValues, now: Mapping[str, str], accepted: Collection[str], *, versions: bool = True
) -> Iterator[UsageError]:
    """What ``node`` can't take, in words.

    ``now``: the values of FILES. ``accepted``: the previous issuers of tokens. ``versions`` False: an upgrade may
    change some.
    """
    issuer = f"https://{last.values.get('externalHost')}:{last.values.get('port')}"
    rotation = (
        f"the tokens that pods have would be refused; add {issuer} to cluster.api.previous_issuers, or pass "
        "--accept-changes"
    )
    for field, name in RENDERED.items():
        kind = KINDS[field]
        free = (kind is Kind.UPGRADE and not versions) or (kind is Kind.ROTATION and issuer in accepted)
        if not free and name in last.values and last.values[name] != now.get(name):
            problem = f"is {now.get(name)}, but {last.values[name]} was deployed; nothing was sent"
            yield UsageError(problem, where=field, hint=_HINTS.get(kind, rotation))
    yield from _other_services(last.values, now)
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
