"""The cluster's secrets: host keys, generation, who can decrypt what, re-encryption, reading and editing."""

import os
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from smallkube.cli import output
from smallkube.cli.context import Current, changing, task
from smallkube.core import ui
from smallkube.core.errors import ErrorGroup, SmallkubeError, listed

if TYPE_CHECKING:
    from smallkube.remote.scan import Scanned
    from smallkube.secrets.recipients import Finding


@task("node", "yes", "json", "wide")
def scan(
    here: Current,
    replace: Annotated[bool, "with --yes: also replace changed keys"] = False,
    timeout: Annotated[int, "seconds to wait for each node"] = 10,
) -> None:
    """Read the nodes' SSH host keys and store them.

    Compare each fingerprint with the output of this command on the machine
    itself:
    ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub
    With --yes new keys are stored, and changed ones refused.
    """
    from smallkube.remote import scan as scanning
    from smallkube.remote.scan import Scan
    from smallkube.secrets import transaction

    with ui.Progress([item.name for item in here.nodes]) as progress:
        rows = scanning.scan(here.workspace, here.nodes, timeout, progress.done)
    _show_scanned(here, rows)
    trusted = [row for row in rows if row.state is Scan.NEW]
    if trusted:
        ui.confirm(f"Store the new host keys of {listed(row.node.name for row in trusted)}?", yes=here.yes)
    faults: list[SmallkubeError] = []
    for row in (row for row in rows if row.state is Scan.CHANGED):
        try:
            _confirm_changed(here, row, replace)
            trusted.append(row)
        except SmallkubeError as error:
            error.where = error.where or f"keys/hosts/{row.node.name}.pub"
            faults.append(error)
    with changing(here):
        written = transaction.commit(here.workspace, scanning.files(trusted))
    for name in written:
        ui.message(f"written: keys/{name}")
    if changed := listed(row.node.name for row in trusted if row.stored):
        ui.message(f"now run `inv keys.rekey`, so that {changed} can read the secrets")
    if failed := [row.node.name for row in rows if row.state is Scan.FAILED]:
        faults.append(SmallkubeError(f"no host key from {listed(failed)}"))
    if faults:
        raise ErrorGroup(faults)


def _show_scanned(here: Current, rows: "tuple[Scanned, ...]") -> None:
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
    cells = [[row["node"], row["state"], row["fingerprint"] or row["reason"]] for row in table]
    output.table(here, table, ["NODE", "STATE", "FINGERPRINT"], cells)


def _confirm_changed(here: Current, row: "Scanned", replace: bool) -> None:
    """A changed key is a reinstalled machine, or another machine that answers: never accepted without confirmation.

    Raises SmallkubeError when it is not accepted.
    """
    name, stored, key = row.node.name, row.stored, row.key
    assert stored and key
    ui.warn(f"THE HOST KEY OF {name} HAS CHANGED")
    ui.message(f"  stored: {stored.fingerprint}\n  now:    {key.fingerprint}")
    if here.yes and not replace:
        hint = f"if the machine was reinstalled: inv keys.scan --node {name} --yes --replace"
        raise SmallkubeError("the host key has changed", hint=hint)
    ui.confirm(f"Trust the new host key of {name} and forget the previous one?", yes=here.yes)


@task("node", "dry-run", "json")
def generate(here: Current) -> None:
    """Generate missing secrets; overwrite none.

    Writes the encrypted secrets, certificates, peers.json and secrets.nix into
    keys/. Says what was created and kept, and what must be re-encrypted.
    """
    from smallkube.secrets import generate as making

    nodes = {item.name for item in here.nodes} if here.node else set()
    output.announce(here, ())
    with changing(here):
        planned = making.plan(here.cluster, nodes)
        outcome = making.Outcome() if here.dry_run else making.act(here.cluster, planned)
    verb, rekey = "would create" if here.dry_run else "created", _reasons(planned.rekey)
    lines = [f"{verb} keys/{name}" for name in planned.created]
    lines += [f"peers.json: {change}" for change in outcome.peers]
    lines += [f"updated keys/{name}" for name in outcome.updated]
    lines.append(f"{verb} {len(planned.created)}, kept {planned.kept}")
    value = {"created": planned.created, "kept": planned.kept, **asdict(outcome), "rekey": rekey}
    output.show(here, value, "\n".join(lines))
    if planned.new_master and not here.dry_run:
        ui.warn("keys/master_key decrypts every secret and is not in git: keep a copy in a safe place")
    for item in rekey:
        ui.warn(f"keys/{item['file']}: {item['why']}")
    if rekey:
        ui.warn(f"{len(rekey)} existing file(s) must be re-encrypted: run `inv keys.rekey`")


def _reasons(findings: "Iterable[Finding]") -> list[dict[str, str]]:
    """Why each file must be re-encrypted."""
    return [{"file": item.secret.file, "why": "; ".join(item.faults)} for item in findings]


@task("json", "wide")
def check(here: Current) -> None:
    """Verify who can decrypt each secret.

    Needs no private key. With keys/master_key it also verifies contents,
    certificates and peers.json against the private keys.
    """
    from smallkube.secrets.audit import check as check_keys

    report = check_keys(here.cluster)
    proofs = {finding.secret.file: finding.proof for finding in report.findings}
    if here.json:
        proven = [{"file": file, "proof": proof} for file, proof in proofs.items()]
        ui.json_result({"proofs": proven, "problems": report.problems})
    elif report.problems:
        rows = [[item.file, item.fault, proofs.get(item.file, ""), item.fix] for item in report.problems]
        ui.table(["FILE IN keys/", "FAULT", "PROOF", "FIXED BY"], rows, spare=["PROOF"], wide=here.wide)
    else:
        counted = ", ".join(f"{number} {kind}" for kind, number in sorted(Counter(proofs.values()).items()))
        ui.result(f"{len(proofs)} secrets verified (proof: {counted})")
    if "header" in proofs.values() and not here.json:
        known = "which hosts (and SSH keys of administrators) can read a file, others are only counted"
        ui.message(f"proof 'header': {known}; `inv keys.rekey` verifies it")
    if report.problems:
        raise SmallkubeError(f"{len(report.problems)} problem{'s' if len(report.problems) > 1 else ''} in keys/")


@task("node", "dry-run", "json")
def rekey(here: Current) -> None:
    """Re-encrypt secrets with wrong recipients.

    Needs keys/master_key. To use a master key of your own, make its identity the
    first line of keys/master_key, above the current one; run this; then remove
    the previous identity. inv keys.rotate-master generates a new one.
    """
    from smallkube.secrets import rekey as rekeying

    nodes = {item.name for item in here.nodes} if here.node else set()
    output.announce(here, ())
    with changing(here):
        planned = rekeying.plan(here.cluster, nodes)
        updated = () if here.dry_run else rekeying.act(here.cluster, planned)
    changed = _reasons(planned.change)
    verb = "would re-encrypt" if here.dry_run else "re-encrypted"
    lines = [f"{verb} keys/{item['file']}: {item['why']}" for item in changed]
    lines += [f"updated keys/{name}" for name in updated]
    lines.append(f"{verb} {len(changed)}, kept {len(planned.good)}")
    value = {"rekeyed": changed, "kept": len(planned.good), "updated": updated, "failed": planned.failed}
    output.show(here, value, "\n".join(lines))
    for name, reason in planned.failed.items():
        ui.warn(f"keys/{name} is kept as it is: {reason}")
    if any("must not" in item["why"] for item in changed):
        ui.message("a host may have kept what it could read, and can still decrypt it from git history")
    if planned.failed:
        raise SmallkubeError(f"{len(planned.failed)} files could not be re-encrypted", hint="restore them from git")


@task("json", "yes")
def prune(here: Current) -> None:
    """Delete the API tokens that nodes used before.

    Earlier versions gave each node a token. Asks every node, and deletes none
    while one still uses a token or can't be asked. The next deploy of the
    primary stops accepting them.
    """
    from smallkube.operations import identities
    from smallkube.secrets.transaction import read_keys

    rows = identities.node_tokens(here.inventory, read_keys(here.workspace))
    if not rows:
        output.show(here, {"removed": []}, "nothing to do: no node has a token")
        return
    ui.confirm(f"delete {listed(row.file for row in rows)} from keys/?", yes=here.yes)
    with changing(here):
        pass  # completes what a killed process had begun
    removed = identities.prune(here.cluster, here.connect)
    output.show(here, {"removed": removed}, "\n".join(f"removed keys/{file}" for file in removed))
    ui.message(f"next: inv nix.render, inv deploy --node {here.inventory.primary.name}; it accepts them until then")


@task("json", "wide")
def list_(here: Current) -> None:
    """List the secrets with content and recipients."""
    from smallkube.secrets import policy
    from smallkube.secrets.keyring import MASTER

    existing = {path.name for path in here.workspace.keys_dir.glob("*.age")}
    admins = [*here.inventory.cluster.secrets.admins] or [MASTER]
    rows: list[dict[str, Any]] = [
        {
            "name": row.name,
            "holds": str(row.kind),
            "readers": [*admins, *row.readers],
            "certificate": row.certificate.file if row.certificate else None,
            "user": row.user.name if row.user else None,
            "access": row.access,
            "units": row.units,
            "rotated_by": row.kind.rotated_by,
            "state": "ok" if row.file in existing else "missing",
        }
        for row in policy.expected(here.inventory, existing)
    ]
    cells = [[row["name"], row["holds"], " ".join(row["readers"]), row["state"]] for row in rows]
    output.table(here, rows, ["NAME", "HOLDS", "READ BY", "STATE"], cells, spare=["HOLDS"])


@task()
def show(here: Current, name: Annotated[str, "as keys.list shows it"]) -> None:
    """Decrypt a secret to standard output.

    Byte for byte. Needs keys/master_key.
    """
    from smallkube.secrets import edit

    ui.raw_result(edit.show(here.cluster, name))


@task()
def edit(here: Current, name: Annotated[str, "as keys.list shows it"]) -> None:
    """Edit a secret with $EDITOR, in memory only.

    Needs keys/master_key. Re-encrypts the secret only when it changed. Refuses
    content that is invalid for this secret, and renews what is derived from it
    (certificate, public key in peers.json).
    """
    from smallkube.secrets import edit as editing

    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    folders = [Path(path) for path in (os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm") if path]
    with changing(here):
        written = editing.edit(here.cluster, name, partial(editing.run_editor, command, folders))
    for file in written:
        ui.result(f"written keys/{file}")
    if not written:
        ui.result("unchanged")
