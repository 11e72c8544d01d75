"""What several namespaces show in the same way: JSON or text, tables, reports of nodes, long operations."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from smallkube.core import ui
from smallkube.core.checks import Check, Result, failed
from smallkube.core.errors import SmallkubeError
from smallkube.core.files import lock

if TYPE_CHECKING:
    from smallkube.cli.context import Current
    from smallkube.deploy.facts import HostFacts
    from smallkube.deploy.plan import Report as DeployReport
    from smallkube.inventory.cluster import Cluster
    from smallkube.inventory.models import Node
    from smallkube.operations.engine import Operation, Outage
    from smallkube.remote.fleet import Report


def show(here: "Current", value: Any, text: str) -> None:
    """The result: ``value`` as JSON, or ``text``."""
    ui.json_result(value) if here.json else ui.result(text)


def table(
    here: "Current", value: Any, columns: Sequence[str], rows: Sequence[Sequence[object]], spare: Sequence[str] = ()
) -> None:
    """The result: ``value`` as JSON, or the table; ``spare``: see ``ui.table``."""
    ui.json_result(value) if here.json else ui.table(columns, rows, spare=spare, wide=here.wide)


def short_credential(text: str) -> str:
    """The beginning of a credential's id (X509SHA256=HEX), enough to compare it by eye; "-" where there is none."""
    return text[:23] or "-"


def announce(here: "Current", nodes: "Sequence[Node]") -> None:
    """With --dry-run, say what the plan is of, and to which machines it would connect (standard error)."""
    from smallkube.remote.openssh import Route

    if here.dry_run:
        ui.message(f"dry run: cluster {here.inventory.cluster.name}, workspace {here.workspace.root}")
        for node in nodes:
            ui.message(f"would connect to {node.name} ({Route.to(node)})")
        if not nodes:
            ui.message("would connect to no machine")


def begin(here: "Current", steps: Sequence[str], question: str, nodes: "Sequence[Node]") -> bool:
    """Print the steps, on ``nodes``; whether to take them, which the operator has confirmed then: not with --dry-run.

    Raises UsageError when they are not confirmed.
    """
    announce(here, nodes)
    if here.dry_run:
        show(here, steps, "\n".join(steps))
        return False
    for text in steps:
        ui.message(f"- {text}")
    ui.confirm(question, yes=here.yes)
    return True


def show_checks(
    here: "Current",
    checks: Sequence[Check],
    problem: str = "checks failed",
    *,
    subject: str = "NODE",
    facts: "Mapping[str, object] | None" = None,
    where: str | None = None,
    hint: str | None = None,
) -> None:
    """The table of checks; its first column, headed ``subject``, is left out where no check has one.

    The JSON is a list. With ``facts`` all checks are of one thing: an object of them and "checks". Raises
    SmallkubeError with ``problem`` when checks failed, naming their subjects, or what was checked of the one thing.
    """
    named = any(check.subject for check in checks)
    rows = [(check.subject, check.check, check.result, check.detail)[not named :] for check in checks]
    value = {**facts, "checks": checks} if facts else checks
    table(here, value, (subject, "CHECK", "RESULT", "DETAIL")[not named :], rows)
    if bad := dict.fromkeys(check.check if facts else check.subject or check.check for check in failed(checks)):
        raise SmallkubeError(f"{problem}: {', '.join(bad)}", where=where, hint=hint)


def show_reports(here: "Current", reports: "Sequence[Report]") -> None:
    """How each node ended. Raises SmallkubeError when one failed."""
    rows = [(report.node, report.outcome, f"{report.seconds:.1f}", report.reason) for report in reports]
    table(here, reports, ("NODE", "OUTCOME", "SECONDS", "REASON"), rows)
    if bad := [report for report in reports if not report.good]:
        raise SmallkubeError(", ".join(f"{report.node} {report.outcome}" for report in bad))


class Runner:
    """An operation of the engine from the command line: dry run, confirmation, lock, progress, downtime and result.

    ``keys`` is keys/ as the operation finds it. ``rotation``: it needs the inventory's values to be those deployed.
    """

    def __init__(self, here: "Current", name: str, *, rotation: bool = True) -> None:
        from smallkube.cli.context import changing
        from smallkube.secrets.transaction import read_keys

        self.here, self.name, self.rotation = here, name, rotation
        self.progress = ui.Progress([*(node.name for node in here.inventory.nodes), name], verbose=here.verbose)
        self.outage: Outage | None = None
        # A change that a killed process had begun is completed first, or its step would be done twice.
        with changing(here):
            self.keys = read_keys(here.workspace)

    def step(self, text: str) -> None:
        """Show what the operation does now."""
        self.progress.step(self.name, text)

    def deploy(
        self, nodes: "Sequence[Node] | None" = None, cluster: "Cluster | None" = None, **options: Any
    ) -> "tuple[DeployReport, ...]":
        """``roll_out``, by default to all nodes; the nodes' own steps are shown in the operation's progress."""
        from smallkube.deploy.run import roll_out

        cluster = cluster or self.here.cluster
        nodes = cluster.inventory.nodes if nodes is None else nodes
        return roll_out(cluster, nodes, self.progress, pool=self.here.pool, **options)

    def run(self, operation: "Operation", question: str, nodes: "Sequence[Node] | None" = None) -> bool:
        """Print the steps that remain, or run just those; whether they ran. Raises UsageError when not confirmed."""
        from smallkube.operations import engine

        if self.rotation and not self.here.dry_run:
            from smallkube.deploy.plan import require_current

            require_current(self.here.cluster, self.here.connect)
        if operation.under_way(self.keys):
            ui.message("resumes the operation that is under way")
        nodes = self.here.inventory.nodes if nodes is None else nodes
        if not begin(self.here, operation.titles(self.keys), question, nodes):
            return False
        counted = engine.outage_of(self.here.connect, self.here.inventory.primary)
        with lock(self.here.workspace.state_dir / "operation.lock", self.name), self.progress:
            with counted if operation.has_primary else nullcontext() as self.outage:
                engine.execute(operation, self.keys, self.step)
            self.progress.done(self.name, "done")
        return True

    def show(self, value: dict[str, Any], text: str) -> None:
        """The result, with the downtime of the API server."""
        outage = self.outage
        show(self.here, {**value, "outage": outage} if outage else value, text)
        if outage:
            ui.message(outage.words)


@contextmanager
def steps(name: str, *, shown: bool) -> Iterator[Callable[[str], None]]:
    """Show the steps of what is done for ``name`` alone, unless they are not to be ``shown``."""
    if not shown:
        yield lambda _: None
        return
    with ui.Progress([name]) as progress:
        yield lambda text: progress.step(name, text)


def check_nodes(
    here: "Current",
    nodes: "Sequence[Node]",
    examine: "Callable[[Node, HostFacts], Iterable[Check]]",
    digest: str,
) -> None:
    """Read the facts of ``nodes`` in parallel and print the checks that ``examine`` makes of them.

    Raises SmallkubeError when a check failed or a node could not be reached.
    """
    from smallkube.deploy import facts

    checks: list[Check] = []
    for outcome in here.ask(nodes, lambda host: facts.of_host(host, here.inventory, digest)):
        if outcome.value:
            checks += examine(outcome.node, outcome.value)
        else:
            checks.append(Check(outcome.node.name, "connection", Result.FAILED, str(outcome.error)))
    show_checks(here, checks)
