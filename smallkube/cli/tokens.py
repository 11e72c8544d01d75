"""API tokens: rotate them, show which client uses which."""

from datetime import UTC, datetime
from typing import Annotated

from smallkube.cli import output
from smallkube.cli.context import CHANGE, Current, Seconds, task, words
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError


@task(*CHANGE)
def rotate(
    here: Current,
    user: Annotated[list[str], "root, kube-scheduler, kube-controller-manager (repeatable; no default)"],
    all: Annotated[bool, "the tokens of all users"] = False,
    abort: Annotated[bool, "undo a rotation under way: the previous tokens stay"] = False,
    timeout: Annotated[Seconds, "seconds for clients to use their new token"] = 120,
) -> None:
    """Rotate API tokens without an outage.

    Deploys the new tokens, both accepted; waits until every client uses
    its new token; removes the previous tokens and verifies that they are refused.
    A node that can't be reached keeps its token, and is named in the end.
    After an interruption the same command resumes.
    """
    from smallkube.operations import tokens as rotating
    from smallkube.remote import fleet
    from smallkube.secrets import policy
    from smallkube.secrets.age import require_master

    everybody = policy.tokens(here.inventory)
    wanted = everybody if all or abort else rotating.select(everybody, words(user))
    runner = output.Runner(here, "tokens")
    off = {} if here.dry_run else fleet.unreachable(here.inventory.workers, here.connect)
    users, left = rotating.affected(runner.keys, wanted, everybody, off)
    for name, row in left.items():
        ui.warn(f"{name} can't be reached ({off[row.node]}): its token stays valid")
    names = [*users]
    master = None if here.dry_run else require_master(here.workspace, "to try tokens")
    rotation = rotating.Rotation(here.cluster, master, here.connect, runner.deploy, users, timeout, off)
    operation = rotation.operation(runner.keys, abort=abort)
    if not runner.run(operation, f"replace API tokens ({', '.join(names)})?"):
        return
    text = f"current tokens accepted, previous ones refused: {', '.join(names)}"
    runner.show({"rotated": names, "refused": names}, text)
    if "root" in names:
        ui.message("kubeconfigs outside the cluster have root's previous token: inv cluster.kubeconfig writes new ones")
    if off:
        tokens = f"; not rotated: {', '.join(left)}" if left else ""
        hint = "when it can be reached, run the same command again; for a lost node, inv nodes.remove NODE --revoke"
        raise SmallkubeError(f"not deployed to {', '.join(off)}{tokens}", hint=hint)


@task("json", "wide")
def status(here: Current) -> None:
    """Show who uses which token or certificate."""
    from smallkube.kube import identities as certificates
    from smallkube.kube import token_clients
    from smallkube.operations import identities, tokens
    from smallkube.secrets.transaction import read_keys

    found, unreachable = token_clients.in_use(here.inventory, here.connect)
    uses, silent = certificates.in_use(here.inventory, here.connect)
    unreachable = {**unreachable, **silent}
    now = datetime.now(UTC)
    rows, others = tokens.status(here.cluster, found, now), identities.status(here.cluster, uses, now)
    table = [
        *((row.user, "token", f"{row.days} d old", row.overlap, row.clients) for row in rows),
        *((row.user, "certificate", f"{row.days} d left", row.overlap, row.clients) for row in others),
    ]
    cells = [(*row[:3], "yes" if row[3] else "no", _clients(row[4])) for row in table]
    value = {"tokens": rows, "certificates": others, "unreachable": unreachable}
    output.table(here, value, ("USER", "BY", "AGE", "OVERLAP", "CLIENTS"), cells, spare=("BY", "OVERLAP"))
    if left := identities.node_tokens(here.inventory, read_keys(here.workspace)):
        ui.warn(f"tokens of nodes are still accepted: {', '.join(row.name for row in left)}; inv keys.prune")
    if unreachable:
        raise SmallkubeError("unreachable: " + ", ".join(f"{node} ({why})" for node, why in unreachable.items()))


def _clients(clients: dict[str, str]) -> str:
    return ", ".join(f"{client}: {word}" for client, word in clients.items()) or "-"
