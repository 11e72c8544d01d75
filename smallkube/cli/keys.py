"""The cluster's secrets: host keys, generation, proof of who can read what, re-encryption, reading and editing."""

import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.context import Context

from smallkube.cli import current, task, words

if TYPE_CHECKING:
    from smallkube.core.errors import SmallkubeError
    from smallkube.secrets.scan import Scanned

__all__ = ["check", "edit", "generate", "list_", "rekey", "scan", "show"]

NODE = "only this node (repeatable, or a,b)"


@task(
    iterable=["node"],
    help={
        "node": NODE,
        "yes": "store new keys without asking; a changed one is refused",
        "replace": "with --yes: also replace changed keys",
        "timeout": "seconds to wait for each node",
        "json": "print JSON",
    },
)
def scan(
    _: Context,
    node: list[str],
    yes: bool = False,
    replace: bool = False,
    timeout: int = 10,
    json: bool = False,
) -> None:
    """Read the nodes' SSH host keys, store what is confirmed.

    Compare each fingerprint with what the machine itself says:
    ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub
    """
    from smallkube.cli import keys_output
    from smallkube.core import ui
    from smallkube.core.errors import ErrorGroup, SmallkubeError
    from smallkube.secrets import scan as scanning
    from smallkube.secrets.keyring import listed

    here = current()
    nodes = here.inventory.select(words(node))
    with ui.Progress([item.name for item in nodes]) as progress:
        rows = scanning.scan(here.workspace, nodes, timeout, progress.done)
    keys_output.show_scanned(rows, json)
    new = [row for row in rows if row.state is scanning.State.NEW]
    changed = [row for row in rows if row.state is scanning.State.CHANGED]
    if new:
        ui.confirm(f"Store the new host keys of {listed(row.node.name for row in new)}?", yes=yes)
    with keys_output.changing(here.workspace):
        written = scanning.store(here.workspace, new)
    for path in written:
        ui.message(f"written: {path}")
    faults = [fault for row in changed if (fault := _replace(row, yes, replace))]
    if failed := [row.node.name for row in rows if row.state is scanning.State.FAILED]:
        faults.append(SmallkubeError(f"no host key from {listed(failed)}"))
    if faults:
        raise ErrorGroup(faults)


def _replace(row: "Scanned", yes: bool, replace: bool) -> "SmallkubeError | None":
    """A changed key is a reinstalled machine, or another machine that answers: never taken silently.

    Returns why it was not taken.
    """
    from smallkube.cli import keys_output
    from smallkube.core import ui
    from smallkube.core.errors import SmallkubeError, UsageError
    from smallkube.secrets import scan as scanning

    name = row.node.name
    if not (row.key and row.stored):
        return None
    ui.warn(f"THE HOST KEY OF {name} HAS CHANGED")
    ui.message(f"  stored: {row.stored.fingerprint}\n  now:    {row.key.fingerprint}")
    if yes and not replace:
        hint = f"if the machine was reinstalled: inv keys.scan --node {name} --yes --replace"
        return SmallkubeError(f"the host key of {name} has changed", hint=hint)
    try:
        ui.confirm(f"Trust the new host key of {name} and forget the old one?", yes=yes and replace)
    except UsageError as error:
        return UsageError(error.message, where=f"keys/hosts/{name}.pub", hint=error.hint)
    workspace = current().workspace
    with keys_output.changing(workspace):
        scanning.store(workspace, [row])
    ui.message(f"written: keys/hosts/{name}.pub; now run `inv keys.rekey`, so that {name} can read its secrets")
    return None


@task(
    iterable=["node"],
    help={"node": NODE, "dry_run": "show what would be made, change nothing", "json": "print JSON"},
)
def generate(_: Context, node: list[str], dry_run: bool = False, json: bool = False) -> None:
    """Make whatever secret is missing; never overwrite one.

    Writes the encrypted secrets, certificates, peers.json and secrets.nix into
    keys/, says what it created and kept, and what must be re-encrypted.
    """
    from smallkube.cli import keys_output
    from smallkube.core import ui
    from smallkube.secrets import generate as making

    here = current()
    inventory = here.inventory
    nodes = {item.name for item in inventory.select(words(node))} if node else set()
    with keys_output.changing(here.workspace):
        planned = making.plan(here.workspace, inventory, nodes)
        outcome = None if dry_run else making.act(here.workspace, inventory, planned)
    report = keys_output.generated(planned, outcome)
    if json:
        ui.json_result(asdict(report))
    else:
        keys_output.show_generated(report, dry_run)
    if planned.new_master and not dry_run:
        ui.warn("keys/master_key opens every secret and is not in git: keep a copy in a safe place")
    for item in report.rekey:
        ui.warn(f"keys/{item['file']}: {item['why']}")
    if report.rekey:
        ui.warn(f"{len(report.rekey)} existing file(s) must be re-encrypted: run `inv keys.rekey`")


@task(help={"json": "print JSON"})
def check(_: Context, json: bool = False) -> None:
    """Prove that exactly the right hosts can read each secret.

    Needs no private key; with keys/master_key here it proves more: contents,
    certificates and peers.json against the private keys.
    """
    from smallkube.cli import keys_output
    from smallkube.core import ui
    from smallkube.core.errors import SmallkubeError
    from smallkube.secrets.check import check as check_keys

    here = current()
    report = check_keys(here.workspace, here.inventory)
    if json:
        ui.json_result(
            {
                "proofs": [{"file": name, "proof": str(proof)} for name, proof in report.proofs],
                "problems": [asdict(problem) for problem in report.problems],
            }
        )
    else:
        keys_output.show_report(report)
    if report.problems:
        raise SmallkubeError(f"{len(report.problems)} problem{'s' if len(report.problems) > 1 else ''} in keys/")


@task(
    iterable=["node"],
    help={"node": NODE, "dry_run": "show what would be re-encrypted, change nothing", "json": "print JSON"},
)
def rekey(_: Context, node: list[str], dry_run: bool = False, json: bool = False) -> None:
    """Re-encrypt what is encrypted to the wrong set of keys.

    Touches nothing else. Needs keys/master_key. To change the master, put the new
    identity as the first line of keys/master_key, above the old one, run this,
    then remove the old one.
    """
    from smallkube.cli import keys_output
    from smallkube.core import ui
    from smallkube.core.errors import SmallkubeError
    from smallkube.secrets import rekey as rekeying

    here = current()
    inventory = here.inventory
    nodes = {item.name for item in inventory.select(words(node))} if node else set()
    with keys_output.changing(here.workspace):
        planned = rekeying.plan(here.workspace, inventory, nodes)
        updated = () if dry_run else rekeying.act(here.workspace, inventory, planned)
    changed = [{"file": item.secret.file, "why": "; ".join(item.faults)} for item in planned.change]
    if json:
        kept, failed = len(planned.good), planned.failed
        ui.json_result({"rekeyed": changed, "kept": kept, "updated": updated, "failed": failed})
    else:
        verb = "would re-encrypt" if dry_run else "re-encrypted"
        for item in changed:
            ui.result(f"{verb} keys/{item['file']}: {item['why']}")
        for name in updated:
            ui.result(f"updated keys/{name}")
        ui.result(f"{verb} {len(changed)}, kept {len(planned.good)}")
    for name, reason in planned.failed.items():
        ui.warn(f"keys/{name} is left as it is: {reason}")
    if any("must not" in item["why"] for item in changed):
        ui.message("what a host could read before, it may have kept, and git history still holds it for that host")
    if planned.failed:
        raise SmallkubeError(f"{len(planned.failed)} files could not be re-encrypted", hint="restore them from git")


@task(name="list", help={"json": "print JSON"})
def list_(_: Context, json: bool = False) -> None:
    """List the secrets: content, readers, whether it is here."""
    from smallkube.core import ui
    from smallkube.secrets import policy

    here = current()
    existing = {path.name for path in here.workspace.keys_dir.glob("*.age")}
    rows = policy.expected(here.inventory, existing)
    states = ["ok" if row.file in existing else "missing" for row in rows]
    if json:
        ui.json_result(
            [
                {
                    "name": row.name,
                    "holds": str(row.kind),
                    "readers": ["master", *row.readers],
                    "certificate": row.certificate.file if row.certificate else None,
                    "state": state,
                }
                for row, state in zip(rows, states, strict=True)
            ]
        )
        return
    cells = [
        [row.name, row.kind, " ".join(("master", *row.readers)), state] for row, state in zip(rows, states, strict=True)
    ]
    ui.table(["NAME", "HOLDS", "READ BY", "STATE"], cells)


@task(positional=["name"], help={"name": "as keys.list shows it"})
def show(_: Context, name: str) -> None:
    """Print a secret to standard output, byte for byte.

    Needs the master key.
    """
    from smallkube.core import ui
    from smallkube.secrets import store

    here = current()
    ui.raw_result(store.show(here.workspace, here.inventory, name))


@task(positional=["name"], help={"name": "as keys.list shows it"})
def edit(_: Context, name: str) -> None:
    """Edit a secret with $EDITOR, in memory only.

    Needs the master key. Re-encrypts only when it changed. Content that this
    secret can't have is refused, and what is derived from it (certificate, public
    key in peers.json) is renewed.
    """
    from smallkube.cli import keys_output
    from smallkube.core import ui
    from smallkube.secrets import edit as editing

    here = current()
    inventory = here.inventory
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folders = [*([Path(runtime)] if runtime else []), Path("/dev/shm")]

    def edited(label: str, plaintext: bytes) -> bytes:
        return editing.run_editor(command, folders, label, plaintext)

    with keys_output.changing(here.workspace):
        written = editing.edit(here.workspace, inventory, name, edited)
    for file in written:
        ui.result(f"written keys/{file}")
    if not written:
        ui.result("unchanged")
