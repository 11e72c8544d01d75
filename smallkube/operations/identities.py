"""Users of the API server that it knows by certificates: whether one is refused, who uses which, earlier tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from smallkube.core.errors import SmallkubeError
from smallkube.deploy import history
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory
from smallkube.kube import identities
from smallkube.kube.identities import TOKEN, Use
from smallkube.operations.engine import Runbook
from smallkube.remote.host import Connect, Host
from smallkube.secrets import certificates, people, policy, transaction
from smallkube.secrets import identities as leaves
from smallkube.secrets.policy import Secret
from smallkube.secrets.transaction import Change, Keys, changing_keys, read_keys


def accepted(runbook: Runbook, pairs: Sequence[tuple[str, bytes, bytes]]) -> list[str]:
    """Those of ``pairs`` (name, certificate, key) that the API server does not refuse, in words."""
    plan, api = runbook.inventory.addressing, runbook.inventory.cluster.api
    url = f"https://{plan.api_internal_host}:{api.port}"
    with runbook.connect(runbook.inventory.primary) as primary:
        answers = {name: identities.attempt(primary, url, pem, key) for name, pem, key in pairs}
    return [f"{name} is {answer}" for name, answer in answers.items() if answer != "refused"]


def opened(runbook: Runbook, rows: Sequence[Secret], keys: Keys) -> list[tuple[str, bytes, bytes]]:
    """Name, certificate and key of those of ``rows`` that are whole in ``keys``."""
    return [
        (row.name, keys.certificates[row.certificate.file], runbook.open(row, keys))
        for row in rows
        if row.certificate and row.file in keys.files and row.certificate.file in keys.certificates
    ]


def send(cluster: Cluster, primary: Host) -> bool:
    """``identities.send`` what keys/ has now, and record which change of keys/ that is, as a deploy does.

    So no other clone undoes what this one has sent. False, and nothing sent: an earlier version was deployed.
    """
    sent = identities.send(primary, identities.document(cluster))
    if sent:
        history.append(primary, history.sent(next(iter(transaction.states(cluster.workspace)), "")))
    return sent


def mismatched(cluster: Cluster, primary: Host) -> list[str]:
    """How the certificates that the API server accepts differ from those in keys/: what it does, in words."""
    workspace, files = cluster.workspace, set(read_keys(cluster.workspace).certificates)
    users, valid = people.accepted(workspace), people.accepted(workspace, datetime.now(UTC))
    expired = {each.certificate for each in users if each not in valid}  # there or not, they are not accepted
    wanted = {
        identities.sha256(workspace.read(workspace.keys_dir / leaf.file) or b""): leaf.file
        for leaf in leaves.leaves(cluster.inventory, files, users)
    }
    found = identities.pinned(primary)
    return [
        *(
            f"accepts a certificate that is not in keys/ ({found[each]})"
            for each in sorted(found.keys() - wanted.keys())
        ),
        *(f"does not accept keys/{file}" for each, file in wanted.items() if each not in found and file not in expired),
    ]


def settle(cluster: Cluster, connect: Connect) -> None:
    """Have the API server accept exactly what keys/ has, after a deploy of the primary.

    Its unit keeps what was sent since the same certificates were deployed (nix/modules/identities.sh): also a user
    whose addition is no longer in keys/.
    """
    with connect(cluster.inventory.primary) as primary:
        if mismatched(cluster, primary):
            send(cluster, primary)


def node_tokens(inventory: Inventory, keys: Keys) -> tuple[Secret, ...]:
    """The tokens of nodes that are still accepted, in all their versions."""
    rows = (each for row in policy.node_tokens(inventory) for each in (row, *row.versions))
    return tuple(row for row in rows if row.file in keys.files)


def prune(cluster: Cluster, connect: Connect) -> tuple[str, ...]:
    """Delete the tokens of nodes from keys/; the files.

    Raises SmallkubeError, and deletes none, when a node can't be asked or was not seen with its certificates.
    """
    found, silent = identities.in_use(cluster.inventory, connect)
    missing = [line for line in identities.unmoved(cluster.inventory, found) if line.split(" on ")[1] not in silent]
    missing += [f"{node} ({why})" for node, why in silent.items()]
    if missing:
        raise SmallkubeError(
            f"not seen with a certificate: {', '.join(missing)}",
            hint="inv deploy, to all nodes; the tokens stay accepted until then",
        )
    with changing_keys(cluster.workspace):
        keys = read_keys(cluster.workspace)
        rows = node_tokens(cluster.inventory, keys)
        if rows:
            transaction.apply(cluster, Change(removed=rows), keys=keys)
    return tuple(row.file for row in rows)


@dataclass(frozen=True)
class Row:
    """``days``: until the certificate expires. ``clients``: UNIT@NODE → "current", "previous", "other" or "token"."""

    user: str
    certificate: str
    days: int
    overlap: bool
    clients: dict[str, str]


def status(cluster: Cluster, found: Sequence[Use], now: datetime) -> list[Row]:
    """One for each certificate of a node's user that is in keys/."""
    keys, table = read_keys(cluster.workspace), []
    for row in policy.identities(cluster.inventory):
        assert row.certificate and row.user
        if (pem := keys.certificates.get(row.certificate.file)) is None:
            continue
        staged = [keys.certificates[file] for file in row.certificate.trusted_files[1:] if file in keys.certificates]
        words = {**{identities.sha256(each): "previous" for each in staged}, identities.sha256(pem): "current"}
        words[TOKEN] = TOKEN
        uses = [use for use in found if use.node == row.node and use.unit in row.units]
        clients = {f"{use.unit}@{use.node}": words.get(use.sha256, "other") for use in uses}
        expires = certificates.load(pem, row.certificate.file).not_valid_after_utc.astimezone(UTC)
        table.append(Row(row.user.short, row.certificate.file, (expires - now).days, bool(staged), clients))
    return table
