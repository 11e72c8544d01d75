"""Certificates as identities at the API server: replaced on the primary at once, tried there, and who uses which.

Nothing is restarted when they are replaced: the API server reads the bundle again (nix/modules/identities.nix).
"""

import hashlib
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from smallkube.core.errors import SmallkubeError, split_lines
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory
from smallkube.kube.token_clients import Answer
from smallkube.remote import fleet
from smallkube.remote.host import Command, Connect, Host
from smallkube.remote.scripts import Scripts
from smallkube.secrets import identities, people, policy

SECONDS = 30
"""The API server accepts what was sent, and refuses what was left out, within ten; a busy machine may take longer."""
TOKEN = "token"
_BUNDLE = "/var/lib/kube-identities/clients.crt"
_NOT_FOUND = 127
_SCRIPTS = Scripts(Path(__file__).with_name("scripts"))
_LEAF = re.compile(
    r"^# ([\w/.@-]{1,100}) [^\n]*\n(-----BEGIN CERTIFICATE-----\n[^-]+-----END CERTIFICATE-----)", re.MULTILINE
)
"""In that bundle: each leaf after a line ``# FILE USER [GROUP]...`` (nix/modules/identities.sh)."""
_LINE = re.compile(r"([a-z-]+) (token|[0-9a-f]{64})")


@dataclass(frozen=True)
class Use:
    """How a service of a node identifies itself: ``sha256`` (hex) of its certificate in DER, or TOKEN."""

    node: str
    unit: str
    sha256: str


def document(cluster: Cluster) -> str:
    """The document of all leaves that keys/ has now, without people's that have expired.

    Raises SmallkubeError when one is missing.
    """
    users = people.accepted(cluster.workspace, datetime.now(UTC))
    return identities.document(cluster.inventory, cluster.workspace.keys_dir, users)


def send(primary: Host, text: str) -> bool:
    """Have the API server accept exactly the leaves in ``text``, the document; the next deploy writes the same.

    What is published for aggregated API servers follows, as far as the API server answers. False when the primary was
    deployed by a version that had no such certificates. Raises SmallkubeError when it refuses the document; then
    nothing was changed.
    """
    command = Command(("kube-identities", "replace"), stdin=text.encode(), title="replace identities")
    reply = primary.run(command)
    if reply.status == _NOT_FOUND:
        return False
    if not reply.ok:
        raise primary.error(f"{command.name} failed: {reply.last_line}")
    primary.run(Command(("kube-identities-publish",), timeout=120, title="publish identities"))
    return True


def pinned(primary: Host) -> dict[str, str]:
    """Of the certificates that are accepted there now: ``sha256`` → file in keys/ from which each came.

    Raises SmallkubeError where there are none.
    """
    command = Command(("cat", _BUNDLE), root=False, title="read the accepted certificates")
    try:
        return {sha256(pem.encode()): file for file, pem in _LEAF.findall(primary.run_checked(command).text)}
    except ValueError as error:
        raise primary.error(f"{command.name}: not a bundle of certificates") from error


def attempt(primary: Host, url: str, certificate: bytes, key: bytes) -> Answer:
    """How the API server at ``url`` answers who shows ``certificate``; the key travels by standard input alone."""
    reply = primary.run_checked(_SCRIPTS.sent("try-certificate", url, stdin=certificate + key, title="try certificate"))
    answers: dict[str, Answer] = {"accepted": "accepted", "refused": "refused"}
    return answers.get(reply.text, "unknown")


def sha256(pem: bytes) -> str:
    """By which a certificate is spoken of: of its DER, as the API server's audit log has it (credential-id)."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode("ascii").strip())).hexdigest()


def in_use(inventory: Inventory, connect: Connect) -> tuple[list[Use], dict[str, str]]:
    """What the running services of all nodes use; and node → why it could not be asked."""
    units = {unit: None for row in policy.identities(inventory) for unit in row.units}

    def ask(machine: Host) -> list[Use]:
        command = _SCRIPTS.sent("identities-in-use", *units, title="identities in use")
        return parse(machine.node.name, machine.run_checked(command).text)

    outcomes = fleet.ask(inventory.nodes, connect, ask)
    return [use for outcome in outcomes for use in outcome.value or ()], fleet.unanswered(outcomes)


def parse(node: str, text: str) -> list[Use]:
    """What ``identities-in-use.sh`` printed. Raises SmallkubeError."""
    matches = [_LINE.fullmatch(line) for line in split_lines(text)]
    if not all(matches):
        raise SmallkubeError("unexpected output from identities-in-use.sh", where=node)
    return [Use(node, match[1], match[2]) for match in matches if match]


def unmoved(inventory: Inventory, found: Sequence[Use]) -> list[str]:
    """The services that were not seen with a certificate, in words."""
    seen = {(use.node, use.unit) for use in found if use.sha256 != TOKEN}
    rows = policy.identities(inventory)
    return [f"{unit} on {row.node}" for row in rows for unit in row.units if (row.node, unit) not in seen]
