"""How the keys tasks show what they found and did."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smallkube.core import ui
from smallkube.core.workspace import Workspace
from smallkube.secrets.store import changing_keys

if TYPE_CHECKING:
    from smallkube.operations.wireguard import WireguardOutcome
    from smallkube.secrets.check import Report
    from smallkube.secrets.generate import Outcome, Plan
    from smallkube.secrets.scan import Scanned


@contextmanager
def changing(workspace: Workspace) -> Iterator[tuple[str, ...]]:
    """``store.changing_keys``, which says what it had to complete."""
    with changing_keys(workspace) as completed:
        if completed:
            ui.message(f"completed an interrupted change of the keys of {', '.join(completed)}")
        yield completed


def show_scanned(rows: "tuple[Scanned, ...]", json: bool) -> None:
    """Each node with its fingerprint, or why there is none."""
    table = [
        {
            "node": row.node.name,
            "host": row.node.ssh.host,
            "port": row.node.ssh.port,
            "state": str(row.state),
            "fingerprint": row.key.fingerprint if row.key else None,
            "stored": row.stored.fingerprint if row.stored else None,
            "reason": row.reason,
        }
        for row in rows
    ]
    if json:
        ui.json_result(table)
    else:
        cells = [[row["node"], row["state"], row["fingerprint"] or row["reason"]] for row in table]
        ui.table(["NODE", "STATE", "FINGERPRINT"], cells)


@dataclass(frozen=True)
class Generated:
    """What `keys.generate` made, or would make."""

    created: list[str]
    kept: int
    peers: list[str]
    updated: list[str]
    rekey: list[dict[str, str]]


def generated(planned: "Plan", outcome: "Outcome | None") -> Generated:
    """The report of a run; of a plan alone when there is no outcome."""
    rekey = [{"file": item.secret.file, "why": "; ".join(item.faults)} for item in planned.rekey]
    if outcome:
        return Generated(list(outcome.created), outcome.kept, list(outcome.peers), list(outcome.updated), rekey)
    created = [row.file for row in planned.create]
    created += [row.certificate.file for row in (*planned.create, *planned.certify) if row.certificate]
    return Generated(created, len(planned.kept), [], [], rekey)


def show_generated(report: Generated, dry_run: bool) -> None:
    """One line for each file made, then the numbers."""
    verb = "would create" if dry_run else "created"
    for name in report.created:
        ui.result(f"{verb} keys/{name}")
    for change in report.peers:
        ui.result(f"peers.json: {change}")
    for name in report.updated:
        ui.result(f"updated keys/{name}")
    ui.result(f"{verb} {len(report.created)}, kept {report.kept}")


def show_report(report: "Report") -> None:
    """A table of the problems, or how many secrets are proven in which way."""
    proofs = {name: str(proof) for name, proof in report.proofs}
    if report.problems:
        rows = [[item.file, item.fault, proofs.get(item.file, ""), item.mend] for item in report.problems]
        ui.table(["FILE IN keys/", "FAULT", "PROOF", "MENDED BY"], rows)
    else:
        counted = ", ".join(f"{number} {kind}" for kind, number in sorted(Counter(proofs.values()).items()))
        ui.result(f"{len(proofs)} secrets, all as they should be (proof: {counted})")
    if "header" in proofs.values():
        ui.message(
            "proof 'header': which hosts can read a file, but not which master; `inv keys.rekey` proves the rest"
        )


def show_rotated(nodes: list[str], outcome: "WireguardOutcome | None", json: bool) -> None:
    """Whose WireGuard key is new, and what was written; whose would be, when there is no outcome."""
    written, changes = (outcome.written, outcome.peers) if outcome else ((), ())
    if json:
        ui.json_result({"rotated": nodes, "written": written, "peers": changes})
        return
    for name in written:
        ui.result(f"written keys/{name}")
    for change in changes:
        ui.result(f"peers.json: {change}")
    ui.result(f"{'new' if outcome else 'would make new'} WireGuard keys: {', '.join(nodes)}")


def after_wireguard(node_tokens: str) -> None:
    """What the person does next."""
    ui.message("next: inv deploy (all peers change together, each machine goes back by itself unless the tunnel works)")
    if node_tokens == "wireguard":
        ui.message(
            "with node_tokens: wireguard these keys are the nodes' API tokens too: the same deploy changes both,"
        )
        ui.message("and a node is not Ready until the primary and the node both have the new one")
