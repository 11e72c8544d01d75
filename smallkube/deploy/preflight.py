"""What is compared with the machines, and with the workspace itself, before anything is sent."""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from smallkube.core import git
from smallkube.core.errors import ErrorGroup, UsageError, listed
from smallkube.core.workspace import Workspace
from smallkube.deploy import facts
from smallkube.deploy.facts import Deployed
from smallkube.inventory.addressing import Addressing
from smallkube.inventory.changes import KINDS, Kind
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.nix import flake, hosts, lockfile
from smallkube.nix.bundle import Bundle
from smallkube.remote import fleet
from smallkube.remote.host import Connect
from smallkube.secrets import age, kinds, peers, policy, transaction

FILES = ("nix/rendered/cluster.nix", "nix/flake.nix")
"""Where the values are that a live cluster can't take by a mere deploy; no name is in both."""
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
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_NETWORK_POLICY = re.compile(rb"""^[^#\n]*\bkind["']?\s*:\s*["']?NetworkPolicy\b""", re.MULTILINE)


def check_rendered(cluster: Cluster, stale: Sequence[Path]) -> None:
    """Raise UsageError when ``stale`` files are not rendered from the inventory as it is."""
    if stale:
        names = listed([cluster.workspace.relative(path) for path in stale], 3)
        raise UsageError(
            f"not rendered from the inventory as it is now ({cluster.inventory.cluster.name}): {names}",
            hint="run `inv nix.render`",
        )


def ask(nodes: Sequence[Node], connect: Connect) -> dict[str, Deployed]:
    """What was deployed to ``nodes``, by name; machines that can't be asked are left out."""
    outcomes = fleet.ask(nodes, connect, facts.deployed)
    return {outcome.node.name: outcome.value for outcome in outcomes if outcome.value}


def refuse_older_keys(found: Mapping[str, Deployed], states: Sequence[str]) -> None:
    """Raise UsageError when a machine has newer keys than a workspace with these ``states`` of keys/.

    Older ones would let nodes in again that were revoked since.
    """
    if newer := [name for name, each in found.items() if each.keys and each.keys not in states]:
        raise UsageError(
            f"{listed(newer)} has newer keys than this workspace; nothing was sent",
            where="keys/",
            hint="run `git pull` (inv deploy --force deploys the older keys)",
        )


def refuse_other_public_keys(nodes: Sequence[Node], found: Mapping[str, Deployed], whole: Bundle) -> None:
    """Raise UsageError when peers.json has another public key than a machine with the very same private key."""
    entries = peers.public_keys(json.loads(whole.files["keys/peers.json"]))
    for node in nodes:
        there = found.get(node.name)
        last = there and there.last_deploy
        if not there or not last or there.public_key in ("", entries.get(node.index)):
            continue
        secret = whole.files.get(f"keys/wgkube{node.index}.key.age", b"")
        same = there.wireguard.get(last.digest) == hashlib.sha256(secret).hexdigest()
        if same and there.system == last.system:
            raise UsageError(
                f"the PublicKey of {node.name} is not that of its private key; nothing was sent",
                where="keys/peers.json",
                hint=f"restore both from git, or run `inv keys.rotate-wireguard --node {node.name}`",
            )


def refuse_changes(
    cluster: Cluster, found: Mapping[str, Deployed], files: Mapping[str, bytes], *, versions: bool
) -> None:
    """Raise ErrorGroup for the values of the inventory that were deployed otherwise, and that a deploy can't change.

    ``found``: node → what it says was deployed to it; machines that could not be asked have no say. ``files``:
    what Nix sees now. ``versions``: also for those that an upgrade changes.
    """
    problems = [*_shrunk(cluster)]
    now = values("".join(files[file].decode() for file in FILES if file in files))
    for name, there in found.items():
        last, accepted = last_values(there), cluster.inventory.cluster.api.previous_issuers
        problems += _other_values(last, now, accepted, versions=versions)
        problems += _other_services(last, now)
        problems += _other_index(cluster.inventory.node(name), there)
    if problems:
        raise ErrorGroup([*{str(problem): problem for problem in problems}.values()])


def values(text: str) -> dict[str, str]:
    """Those values of FILES that are compared, by their names there; of a text that is none, none."""
    return {name: value for name, value in _VALUE.findall(text) if name in _NAMES}


def last_values(there: Deployed) -> dict[str, str]:
    """``values`` of what was deployed to this machine last, as far as it still has it."""
    return values_of(there, there.last_deploy.digest if there.last_deploy else "")


def values_of(there: Deployed, digest: str) -> dict[str, str]:
    """``values`` of the bundle with this digest, as far as the machine still has it."""
    prefixes = [f"{digest}/{file}:" for file in FILES if digest]
    lines = [line.removeprefix(prefix) for prefix in prefixes for line in there.rendered if line.startswith(prefix)]
    return values("\n".join(lines))


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


def _other_values(
    last: Mapping[str, str], now: Mapping[str, str], accepted: Collection[str], *, versions: bool
) -> Iterator[UsageError]:
    """``accepted``: the previous issuers of tokens. ``versions`` False: an upgrade may change some."""
    issuer = f"https://{last.get('externalHost')}:{last.get('port')}"
    rotation = (
        f"the tokens that pods have would be refused; add {issuer} to cluster.api.previous_issuers, or pass "
        "--accept-changes"
    )
    for field, name in RENDERED.items():
        kind = KINDS[field]
        free = (kind is Kind.UPGRADE and not versions) or (kind is Kind.ROTATION and issuer in accepted)
        if not free and name in last and last[name] != now.get(name):
            problem = f"is {now.get(name)}, but {last[name]} was deployed; nothing was sent"
            yield UsageError(problem, where=field, hint=_HINTS.get(kind, rotation))


def _other_services(last: Mapping[str, str], now: Mapping[str, str]) -> Iterator[UsageError]:
    """Other ranges of Services than the API server takes: it adds a second one to the first, and changes none.

    kubernetes/pkg/controlplane/controller/defaultservicecidr, ``sync``. Other prefixes are a fault by themselves.
    """
    previous, wanted = _services(last), _services(now)
    same_prefixes = all(last.get(name) == now.get(name) for name in ("prefix4", "prefix6"))
    if last and same_prefixes and wanted[: len(previous)] != previous:
        problem = f"Services would be in {', '.join(wanted)}, but {', '.join(previous)} was deployed; nothing was sent"
        hint = "restore services4, services6 and prefer; the one possible change adds a second range after the first"
        yield UsageError(problem, where="cluster.network", hint=hint)


def _services(found: Mapping[str, str]) -> tuple[str, ...]:
    """The Services' ranges by these values; versions without their keys had one of IPv4."""
    six = found.get("services6", "null")
    known = {name: found.get(name, "") for name in ("prefix4", "prefer", "services4")}
    return Addressing(**known, services6="" if six == "null" else six).services


def _other_index(node: Node, there: Deployed) -> Iterator[UsageError]:
    own = [found[1] for name in there.own_keys if (found := _OWN_KEY.fullmatch(name))]
    if len(own) == 1 and own[0] != str(node.index):
        problem = f"this machine was deployed as node{own[0]}; nothing was sent"
        hint = f"name it node{own[0]} in inventory.yaml, or reinstall it"
        yield UsageError(problem, where=node.name, hint=hint)


def stale_peers(
    cluster: Cluster, nodes: Sequence[Node], found: Mapping[str, Deployed], wanted: bytes, connect: Connect
) -> tuple[bool, dict[str, Deployed]]:
    """Whether one of ``nodes`` has an older peers.json than ``wanted``, and which other nodes have one, and what else.

    The others are asked only if there is a change; unreachable machines are ignored. A machine that was never deployed
    has none; the others cannot reach it through the tunnel in any case.
    """
    digest = hashlib.sha256(wanted).hexdigest()
    selected = {found[node.name].peers for node in nodes if node.name in found} - {digest}
    others = [node for node in cluster.inventory.nodes if node not in nodes] if selected else []
    known = ask(others, connect) if others else {}
    stale = {name: each for name, each in known.items() if each.peers not in ("", digest)}
    return any(selected), stale


def commit(workspace: Workspace) -> str:
    """The last commit that changed the workspace, "" where it is not in git."""
    return (git.ask(workspace.root, "log", "-1", "--format=%H", "--", ".") or "").strip()


def warnings(cluster: Cluster, nodes: Sequence[Node], found: Mapping[str, Deployed], whole: Bundle) -> Iterator[str]:
    """What to look at before a deploy goes on."""
    yield from preferred_family(found, whole.files)
    yield from unknown_commits(cluster.workspace, found)
    yield from host_warnings(nodes, whole)
    yield from addon_warnings(cluster.inventory.cluster.addons, whole)
    if stale := lockfile.stale_line(whole.files.get(flake.LOCK_FILE), whole.files[flake.FILE]):
        yield f"{stale} shows what changes; else the deploy locks it again, which may need the network"


def preferred_family(found: Mapping[str, Deployed], files: Mapping[str, bytes]) -> Iterator[str]:
    """A warning when addresses change beyond the machines themselves; the arguments are those of ``refuse_changes``."""
    wanted = values(files[FILES[0]].decode())[_PREFER]
    lasts = {name: last_values(there) for name, there in found.items()}
    # Versions without the key made IPv6 the first family.
    if nodes := [name for name, last in lasts.items() if last and last.get(_PREFER, "ipv6") != wanted]:
        first = f"the first address of {listed(nodes)} and of their pods will be {_FAMILIES[wanted]}"
        yield f"cluster.network.prefer: {first}; pods that run keep both addresses and their DNS server"


def unknown_commits(workspace: Workspace, found: Mapping[str, Deployed]) -> Iterator[str]:
    """Warnings of machines that were deployed from a commit which this clone does not have."""
    last = {name: each.last_deploy.commit for name, each in found.items() if each.last_deploy}
    commits = filter(_COMMIT.fullmatch, {*last.values()}) if git.ask(workspace.root, "rev-parse", "--git-dir") else ()
    unknown = [each for each in commits if git.ask(workspace.root, "cat-file", "-e", f"{each}^{{commit}}") is None]
    for name, each in last.items():
        if each in unknown:
            yield f"{name} was deployed from commit {each[:12]}, which this clone does not have: git pull"


def host_warnings(nodes: Sequence[Node], whole: Bundle) -> Iterator[str]:
    """What the configuration of machines in nix/hosts does not have, as far as its words tell."""
    names: dict[str, list[str]] = {}
    for name, missing in hosts.lacking(whole.files, [node.name for node in nodes]).items():
        names.setdefault(", ".join(missing), []).append(name)
    yield from (f"nix/hosts: {words} for {listed(names[words])}; {hosts.HINT}" for words in names if words)


def addon_warnings(addons: Sequence[str], whole: Bundle) -> Iterator[str]:
    """What the manifests of the inventory, paths in the workspace, ask for and do not get."""
    for addon in addons if "network-policy" not in addons else ():
        if _NETWORK_POLICY.search(whole.files.get(addon, b"")):
            yield f"{addon}: a NetworkPolicy has no effect without the add-on network-policy or a controller of yours"
