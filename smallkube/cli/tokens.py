"""API tokens: rotate them, show which client uses which."""

from datetime import UTC, datetime

from invoke.context import Context

from smallkube.cli import output
from smallkube.cli.context import CHANGE, JSON, at_least, current, task, words
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError


@task(
    iterable=["user"],
    help={
        "user": "root, kube-scheduler, kube-controller-manager, nodeN (repeatable)",
        "all": "the tokens of all users",
        "abort": "undo a rotation under way: the previous tokens stay",
        "timeout": "seconds for clients to use their new token",
        **CHANGE,
    },
)
def rotate(
    _: Context,
    user: list[str],
    all: bool = False,
    abort: bool = False,
    timeout: int = 120,
    dry_run: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Rotate API tokens without an outage.

    Deploys the new tokens, both accepted; waits until every client uses
    its new token; removes the previous tokens and verifies that they are refused.
    After an interruption the same command resumes.
    """
    from smallkube.kube import token_users
    from smallkube.operations import tokens as rotating
    from smallkube.operations.engine import Overlap
    from smallkube.secrets.age import require_master

    at_least(1, timeout=timeout)
    here = current()
    wanted = token_users.select(here.inventory, words(user), everybody=all or abort)
    runner = output.Runner(here, rotating.NAME, dry_run=dry_run, yes=yes, json=json)
    users = rotating.affected(runner.keys, wanted, token_users.all_users(here.inventory))
    names = [one.short for one in users]
    master = None if dry_run else require_master(here.workspace, "to try tokens")
    overlap = Overlap(here.cluster, tuple(one.secret for one in users), master)
    rotation = rotating.Rotation(overlap, users, here.connect, runner.deploy, timeout)
    operation = rotation.operation(runner.keys, abort=abort)
    if not runner.run(operation, f"replace API tokens ({', '.join(names)})?"):
        return
    text = f"current tokens accepted, previous ones refused: {', '.join(names)}"
    runner.show({"rotated": names, "refused": names}, text)
    if "root" in names:
        ui.message("kubeconfigs outside the cluster have root's previous token: inv cluster.kubeconfig writes new ones")


@task(help=JSON)
def status(_: Context, json: bool = False) -> None:
    """Show the age and the clients of each token."""
    from smallkube.kube import token_clients, token_users
    from smallkube.operations import token_status
    from smallkube.secrets.age import read_master
    from smallkube.secrets.transaction import read_keys

    here = current()
    found, unreachable = token_clients.in_use(here.inventory, here.connect)
    everybody, master = token_users.all_users(here.inventory), read_master(here.workspace)
    rows = token_status.rows(here.workspace, read_keys(here.workspace), everybody, master, found, datetime.now(UTC))
    table = [(row.user, f"{row.days} d", "yes" if row.overlap else "no", _clients(row.clients)) for row in rows]
    columns = ("USER", "AGE", "OVERLAP", "CLIENTS")
    output.table({"tokens": rows, "unreachable": unreachable}, columns, table, json=json)
    if unreachable:
        raise SmallkubeError("unreachable: " + ", ".join(f"{node} ({why})" for node, why in unreachable.items()))


def _clients(clients: dict[str, str]) -> str:
    return ", ".join(f"{client}: {word}" for client, word in clients.items()) or "-"
