"""Administrators: who can read every secret and backup."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

from smallkube.cli import output
from smallkube.cli.context import CHANGE, Current, Limits, Seconds, changing, task
from smallkube.core import ui
from smallkube.core.errors import listed

if TYPE_CHECKING:
    from smallkube.operations.admin_removal import Plan

Name = Annotated[str, "as cluster.secrets.admins in inventory.yaml has it"]


@task("json", "wide")
def list_(here: Current) -> None:
    """List administrators and what they cannot read.

    Needs no private key: by keys/recipients.json and the files themselves. HERE
    is the one whose identity is keys/master_key, or the file that
    SMALLKUBE_IDENTITY names.
    """
    from smallkube.inventory.admins import short
    from smallkube.operations import admins

    rows = admins.status(here.cluster)
    cells = [
        [row.name, row.kind, short(row.recipient), "yes" if row.here else "", _cannot(row.unreadable, row.unknown)]
        for row in rows
    ]
    output.table(here, rows, ["NAME", "KIND", "RECIPIENT", "HERE", "CANNOT READ"], cells)


def _cannot(unreadable: tuple[str, ...], unknown: tuple[str, ...]) -> str:
    unrecorded = f"not recorded: {listed(unknown, 3)}" if unknown else ""
    return "; ".join(filter(None, [listed(unreadable, 3), unrecorded])) or "-"


@task("dry-run", "json")
def add(
    here: Current,
    name: Name,
    recipient: Annotated[str, "age1…, 'ssh-ed25519 AAAA…', or age1PLUGIN1… of an age plugin"],
) -> None:
    """Let another administrator read every secret.

    Adds the name and the recipient (a public key) to cluster.secrets.admins in
    inventory.yaml and re-encrypts every secret. Later backups are encrypted to
    them as well. Needs your own identity. After an interruption the same command
    resumes.
    """
    from smallkube.operations import admins

    output.announce(here, ())
    with changing(here):
        planned = admins.plan_addition(here.cluster, name, recipient)
        files = tuple(finding.secret.file for finding in planned.rekey.change)
        if not here.dry_run:
            admins.add(planned)
    verb = "would re-encrypt" if here.dry_run else "re-encrypted"
    edited = ("would add" if here.dry_run else "added") if planned.text is not None else "unchanged"
    lines = [f"inventory.yaml: {edited}", *(f"{verb} keys/{file}" for file in files)]
    names = [*planned.cluster.inventory.cluster.secrets.admins]
    output.show(here, {"admins": names, "inventory": edited, "rekeyed": files}, "\n".join(lines))
    _warn_of_strays(here)
    if not here.dry_run:
        ui.message("commit inventory.yaml and keys/; earlier backups and git history stay unreadable for a new one")
        ui.message("no node needs the new files; the next deploy brings them, and restarts services that use them")


@task(*CHANGE)
def remove(
    here: Current,
    name: Name,
    abort: Annotated[bool, "undo it, as long as no secret is being replaced"] = False,
    overlap: Annotated[int, Limits(0), "seconds for programs to read their new ServiceAccount token"] = 120,
    timeout: Annotated[Seconds, "seconds for clients to use new tokens and certificates"] = 300,
) -> None:
    """Remove an administrator; replace what they read.

    Lists all that they could read; encrypts every secret to the others alone;
    then rotates WireGuard keys, tokens, certificates and their keys, the
    encryption key and the issuer's key, each as its own task does. People whose
    keys were made here get new ones and need inv users.kubeconfig again. Backups
    that they could read stay readable for them. Needs another administrator's
    identity: SMALLKUBE_IDENTITY. After an interruption the same command resumes.
    """
    from smallkube.operations import admin_removal as removing
    from smallkube.secrets.age import require_master

    runner = output.Runner(here, "admins")
    master = require_master(here.workspace, "to re-encrypt")
    plan = removing.make(here.cluster, name, master)
    cluster = plan.everyone if abort else plan.others
    deploy = partial(runner.deploy, cluster=cluster)
    removal = removing.Removal(cluster, master, here.connect, deploy, plan, overlap, timeout)
    operation = removal.abort(runner.keys) if abort else removal.operation(runner.keys)
    if not abort:
        _say_exposed(plan)
        _warn_of_strays(here)
    question = f"undo the removal of {name}?" if abort else f"remove {name}, and replace all of this?"
    if not runner.run(operation, question):
        return
    secrets = [] if abort else [row.name for row in plan.rows]
    value = {"admin": name, "removed": not abort, "replaced": secrets, "backups": plan.backups}
    text = f"{name} is an administrator again" if abort else f"{name} is removed, and all they could read is replaced"
    runner.show(value, text)
    if not abort:
        _say_left(plan)


def _warn_of_strays(here: Current) -> None:
    """Files that stay as they are: those of nodes that were removed, for example."""
    from smallkube.secrets import policy

    existing = {path.name for path in here.workspace.keys_dir.glob("*.age")}
    if stray := sorted(existing - {row.file for row in policy.expected(here.inventory, existing)}):
        ui.warn(f"not re-encrypted, no secrets of this inventory: {', '.join(stray)} (inv keys.check)")


def _say_exposed(plan: "Plan") -> None:
    """What the one who leaves could read, and each task that replaces it."""
    from smallkube.operations.master import reissue

    name = plan.exposed.name
    ui.message(f"{name} could read these secrets{', which are not replaced yet' if plan.begun else ''}:")
    for command, names in reissue(plan.rows).items():
        ui.message(f"  {', '.join(names)} (replaced as by {command})")
    _say_backups(plan)


def _say_backups(plan: "Plan") -> None:
    name, found = plan.exposed.name, plan.backups
    if found:
        ui.warn(
            f"{name} can read {len(found)} backups here ({found[0]} to {found[-1]}), and copies of them; they stay so"
        )


def _say_left(plan: "Plan") -> None:
    """What no rotation can change."""
    name = plan.exposed.name
    _say_backups(plan)
    if plan.backups:
        ui.message("inv etcd.backup takes one that they can't read; inv etcd.prune removes earlier ones by its policy")
    ui.message(
        f"git history and {name}'s copies still have what was replaced; Secrets in backups: change at their source"
    )
    ui.message(f"remove {name}'s SSH keys from nix/hosts, and their machine's line from keys/backup_signers")
    ui.message("commit inventory.yaml and keys/; kubeconfigs outside the cluster: inv cluster.kubeconfig")
