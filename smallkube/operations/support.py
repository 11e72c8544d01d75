"""One archive of what explains a fault: state, units, journals, rules, events and versions, without secrets."""

import gzip
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from smallkube.core.errors import SmallkubeError, visible
from smallkube.core.workspace import Workspace
from smallkube.deploy.facts import units_of
from smallkube.doctor import facts as doctor
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.operations import status
from smallkube.operations.machines import SCRIPTS
from smallkube.remote import fleet, scripts
from smallkube.remote.host import Connect, Host

SECONDS = 180
"""Without output, a machine is given up after so long."""
MASK = "[masked]"
_LOG_BYTES = 1 << 20
_LEAST = 16
"""Characters of a word of a private file from which on it is masked, as in support.sh."""
_SHAPES = re.compile(
    r"AGE-SECRET-KEY-1[0-9A-Z]+|AGE-PLUGIN-[0-9A-Z-]+1[0-9A-Z]+"
    r"|eyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL | re.ASCII,
)
"""Age identities, JSON Web Tokens, private keys in PEM."""


@dataclass(frozen=True)
class NodeSupport:
    """What ``scripts/support.sh`` prints of a machine; the last four are of the cluster, from the primary."""

    versions: str
    units: str
    failed: str
    journal: str
    kernel: str
    rules: str
    network: str
    disk: str
    history: str
    nodes: str = ""
    pods: str = ""
    events: str = ""
    ready: str = ""


@dataclass(frozen=True)
class Support:
    """``data`` is a tar archive, compressed by gzip; ``missing``: node → why nothing is known of it."""

    data: bytes
    names: tuple[str, ...]
    missing: Mapping[str, str]


class Masks:
    """Masks what is secret on this machine: words of its private files, and keys and tokens by their shape."""

    def __init__(self, workspace: Workspace) -> None:
        self._words: set[str] = set()
        for path in (workspace.identity_file, workspace.state_dir / "ssh_key", workspace.state_dir / "backup_key"):
            try:
                text = path.read_text(errors="replace")
            except OSError:
                continue
            self._words |= {word for word in text.split() if len(word) >= _LEAST and not word.startswith("-----")}

    def applied(self, text: str) -> str:
        """``text`` without them, and with the control characters in it made visible."""
        for word in self._words:
            text = text.replace(word, MASK)
        return visible(_SHAPES.sub(MASK, text))


def collect(cluster: Cluster, connect: Connect, now: datetime) -> Support:
    """Ask every machine; what can't be had is named in the archive in its place."""
    inventory, masks = cluster.inventory, Masks(cluster.workspace)

    def ask(host: Host) -> NodeSupport:
        arguments = (host.node.role, *units_of(host.node))
        return scripts.read(host, SCRIPTS.sent("support", *arguments, timeout=SECONDS), NodeSupport)

    outcomes = fleet.ask(inventory.nodes, connect, ask)
    files = {f"operator/{name}": text for name, text in _here(cluster)}
    files["state.json"] = _state(cluster, connect, now)
    for outcome in outcomes:
        files |= _of_node(outcome.node, outcome.value, str(outcome.error))
    shown = {name: masks.applied(text) for name, text in sorted(files.items())}
    top = f"support-{inventory.cluster.name}-{now:%Y-%m-%dT%H%M%SZ}"
    return Support(_archive(top, shown, now), tuple(shown), fleet.unanswered(outcomes))


def _of_node(node: Node, found: NodeSupport | None, error: str) -> dict[str, str]:
    if found is None:
        return {f"{node.name}/error.txt": f"{error}\n"}
    texts = {field.name: getattr(found, field.name) for field in fields(found)}
    return {f"{node.name}/{name}.txt": f"{text}\n" for name, text in texts.items() if text}


def _state(cluster: Cluster, connect: Connect, now: datetime) -> str:
    try:
        return _json(asdict(status.read(cluster, connect, now)))
    except SmallkubeError as error:
        return _json({"error": str(error)})


def _here(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """What this machine knows: versions, the inventory, and the log of commands, which has no arguments and output."""
    workspace, found = cluster.workspace, doctor.read(cluster.workspace)
    known = {name: getattr(found, name) for name in ("distribution", "python", "packages", "programs")}
    yield "versions.json", _json(known)
    yield "inventory.yaml", workspace.read_text(workspace.inventory_file) or ""
    log = workspace.read(workspace.state_dir / "log") or b""
    yield "log.txt", log[-_LOG_BYTES:].decode(errors="replace")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str) + "\n"


def _archive(top: str, files: Mapping[str, str], now: datetime) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, text in files.items():
            data = text.encode(errors="backslashreplace")
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(now.timestamp())
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(packed.getvalue(), mtime=0)
