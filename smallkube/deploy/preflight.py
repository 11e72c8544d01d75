"""What is compared with the machines, and with the workspace itself, before anything is sent."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence

from smallkube.core import git
from smallkube.core.errors import UsageError, listed
from smallkube.core.workspace import Workspace
from smallkube.deploy import facts
from smallkube.deploy.facts import Deployed
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.nix import hosts
from smallkube.nix.bundle import Bundle
from smallkube.remote import fleet
from smallkube.remote.ssh import connector
from smallkube.secrets import peers

_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_NETWORK_POLICY = re.compile(rb"""^[^#\n]*\bkind["']?\s*:\s*["']?NetworkPolicy\b""", re.MULTILINE)


def ask(cluster: Cluster, nodes: Sequence[Node]) -> dict[str, Deployed]:
    """What was deployed to ``nodes``, by name; machines that can't be asked are left out."""
    outcomes = fleet.ask(nodes, connector(cluster.workspace), facts.deployed)
    return {outcome.node.name: outcome.value for outcome in outcomes if outcome.value}


def refuse_older_keys(found: Mapping[str, Deployed], states: Sequence[str]) -> None:
    """Raise UsageError when a machine has newer keys than a workspace with these ``states`` of keys/.

    Older ones would let nodes in again that were revoked since.
    """
    if newer := [name for name, each in found.items() if each.keys and each.keys not in states]:
        raise UsageError(
            f"{listed(newer)} was deployed with newer keys than this workspace has; nothing was sent",
            where="keys/",
            hint="run `git pull`, or pass --force to deploy the older keys",
        )


def refuse_other_public_keys(nodes: Sequence[Node], found: Mapping[str, Deployed], whole: Bundle) -> None:
    """Raise UsageError when peers.json has another public key than a machine with the very same private key."""
    entries = peers.public_keys(json.loads(whole.files["keys/peers.json"]))
    for node in nodes:
        there, published = found.get(node.name), entries.get(node.index)
        if not there or not there.public_key or there.public_key == published or not there.effective:
            continue
        last, secret = there.effective[0], whole.files.get(f"keys/wgkube{node.index}.key.age", b"")
        same = there.wireguard.get(last.digest) == hashlib.sha256(secret).hexdigest()
        if same and there.system == last.system:
            raise UsageError(
                f"the PublicKey of {node.name} is not that of its private key; nothing was sent",
                where="keys/peers.json",
                hint=f"restore both from git, or run `inv keys.rotate-wireguard --node {node.name}`",
            )


def stale_peers(
    cluster: Cluster, nodes: Sequence[Node], found: Mapping[str, Deployed], wanted: bytes
) -> tuple[bool, tuple[str, ...]]:
    """Whether one of ``nodes`` has an older peers.json than ``wanted``, and which other nodes have one.

    The others are asked only if there is a change; unreachable machines are ignored. A machine that was never deployed
    has none; the others cannot reach it through the tunnel in any case.
    """
    digest = hashlib.sha256(wanted).hexdigest()

    def older(asked: Sequence[Node], known: Mapping[str, Deployed]) -> list[str]:
        return [node.name for node in asked if node.name in known and known[node.name].peers != digest]

    selected = older(nodes, found)
    others = [node for node in cluster.inventory.nodes if node not in nodes] if selected else []
    known = ask(cluster, others) if others else {}
    return any(found[name].peers for name in selected), tuple(
        name for name in older(others, known) if known[name].peers
    )


def commit(workspace: Workspace) -> str:
    """The last commit that changed the workspace, "" where it is not in git."""
    return (git.ask(workspace.root, "log", "-1", "--format=%H", "--", ".") or "").strip()


def unknown_commits(workspace: Workspace, found: Mapping[str, Deployed]) -> Iterator[str]:
    """Warnings of machines that were deployed from a commit which this clone does not have."""
    last = {name: each.effective[0].commit for name, each in found.items() if each.effective}
    known = {
        each: git.ask(workspace.root, "cat-file", "-e", f"{each}^{{commit}}") is not None
        for each in {*last.values()}
        if _COMMIT.fullmatch(each) and git.ask(workspace.root, "rev-parse", "--git-dir")
    }
    for name, each in last.items():
        if known.get(each) is False:
            yield f"{name} was deployed from commit {each[:12]}, which this clone does not have: git pull"


def host_warnings(nodes: Sequence[Node], whole: Bundle) -> Iterator[str]:
    """What the configuration of machines in nix/hosts does not have, as far as its words tell."""
    names: dict[str, list[str]] = {}
    for name, missing in hosts.lacking(whole.files, [node.name for node in nodes]).items():
        names.setdefault(", ".join(missing), []).append(name)
    yield from (f"nix/hosts: {words} for {listed(names[words])}; {hosts.HINT}" for words in names if words)


def addon_warnings(addons: Sequence[str], whole: Bundle) -> Iterator[str]:
    """What the manifests of the inventory, paths in the workspace, ask for and do not get."""
    for addon in addons:
        if _NETWORK_POLICY.search(whole.files.get(addon, b"")):
            yield f"{addon}: a NetworkPolicy has no effect unless a controller of yours enforces it"
