"""The rebuild of the machines, from a plan, under a rollback that each machine arms for itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from invoke.context import Context

from smallkube.cli import current, task, words
from smallkube.core.errors import SmallkubeError, UsageError

if TYPE_CHECKING:
    from smallkube.cli import Current
    from smallkube.deploy.checks import Finding
    from smallkube.deploy.inspection import State
    from smallkube.deploy.plan import Plan
    from smallkube.deploy.preview import Changes
    from smallkube.deploy.report import Report
    from smallkube.inventory.models import Node
    from smallkube.nix.bundle import Bundle

__all__ = ["deploy", "history", "plan", "rollback", "status"]

SELECTION = {
    "node": "only these nodes (repeatable, or separated by commas)",
    "role": "only the primary, or only the workers: primary | worker",
    "tag": "only nodes with this tag",
}


@task(
    default=True,
    iterable=["node", "role", "tag"],
    help={
        **SELECTION,
        "goal": "switch | boot | test | dry-activate | build, as in nixos-rebuild",
        "build-on": "target: each machine builds its own; local: build here and copy",
        "batch": "how many workers at a time (0: all at once)",
        "max-failures": "how many machines may fail before the rest is left alone",
        "confirm-timeout": "seconds after which a machine goes back unless confirmed",
        "no-rollback": "do not go back, whatever happens",
        "no-drain": "do not move pods away before a machine's services restart",
        "with-peers": "also deploy to machines that have yet to learn of changed peers",
        "dry-run": "print the plan and touch nothing",
        "json": "print the outcome as JSON",
    },
)
def deploy(
    _: Context,
    node: list[str],
    role: list[str],
    tag: list[str],
    goal: str = "switch",
    build_on: str = "target",
    batch: int = 0,
    max_failures: int = 0,
    confirm_timeout: int = 300,
    no_rollback: bool = False,
    no_drain: bool = False,
    with_peers: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Rebuild the machines: primary first, then the workers."""
    from smallkube.core import ui
    from smallkube.deploy import prepare
    from smallkube.deploy.plan import Options, parse_build_on, parse_goal

    here = current()
    nodes = here.inventory.select(words(node), words(role), words(tag))
    where = parse_build_on(build_on)
    options = Options(batch or None, max_failures, confirm_timeout, not no_rollback, not no_drain, with_peers, where)
    plan, bundle = prepare.prepare(
        here.workspace, here.inventory, nodes, parse_goal(goal), options, may_lock=not dry_run
    )
    if plan.left_out:
        ui.warn(
            f"the peers have changed, and {', '.join(plan.left_out)} will not learn of it; --with-peers includes them"
        )
    if dry_run:
        _show_plan(plan, json=json)
        return
    _carry_out(here, plan, bundle, json=json)


def _carry_out(here: "Current", plan: "Plan", bundle: "Bundle", *, json: bool) -> None:
    from smallkube.core import ui
    from smallkube.deploy import run

    with ui.Progress([each.name for each in plan.nodes]) as progress:
        reports = run.execute(plan, bundle, here.workspace, here.inventory, progress)
    _show(reports, json=json)
    bad = [report for report in reports if not report.good]
    if bad:
        raise SmallkubeError(f"not everything was deployed: {', '.join(f'{r.node} {r.outcome}' for r in bad)}")


@task(iterable=["node", "role", "tag"], help={**SELECTION, "json": "print JSON"})
def plan(_: Context, node: list[str], role: list[str], tag: list[str], json: bool = False) -> None:
    """Build on the machines, show what a deploy would change."""
    from smallkube.core import ui
    from smallkube.deploy import prepare, preview, run
    from smallkube.deploy.plan import Goal
    from smallkube.remote import fleet
    from smallkube.remote.ssh import SshHost

    here = current()
    nodes = here.inventory.select(words(node), words(role), words(tag))
    planned, bundle = prepare.prepare(here.workspace, here.inventory, nodes, Goal.DRY_ACTIVATE)

    def compare(each: "Node") -> preview.Changes:
        with SshHost(here.workspace, each) as session:
            return preview.changes(session, bundle)

    outcomes = fleet.run(planned.stages, compare)
    fleet.raise_errors(outcomes)
    changes = {outcome.node.name: outcome.value for outcome in outcomes if outcome.value}
    with ui.Progress([each.name for each in planned.nodes]) as progress:
        reports = run.execute(planned, bundle, here.workspace, here.inventory, progress)
    if json:
        ui.json_result([{**asdict(report), "files": asdict(changes[report.node])} for report in reports])
    else:
        _show_preview(reports, changes)
    if not all(report.good for report in reports):
        raise SmallkubeError("not every node could be planned for")


@task(
    iterable=["node", "role", "tag"],
    help={
        **SELECTION,
        "generation": "which one (default: the newest before the one that boots)",
        "confirm-timeout": "seconds after which a machine goes back unless confirmed",
        "dry-run": "print the plan and touch nothing",
        "json": "print the outcome as JSON",
        "yes": "do not ask",
    },
)
def rollback(
    _: Context,
    node: list[str],
    role: list[str],
    tag: list[str],
    generation: str | None = None,
    confirm_timeout: int = 300,
    dry_run: bool = False,
    json: bool = False,
    yes: bool = False,
) -> None:
    """Go back to an earlier generation, as safely as forward."""
    from smallkube.core import ui
    from smallkube.deploy import plan as planning
    from smallkube.nix.bundle import Bundle

    here = current()
    nodes = here.inventory.select(words(node), words(role), words(tag))
    if generation and not generation.isdecimal():
        raise UsageError(f"--generation {generation}: not a number", hint="see inv deploy.history")
    options = planning.Options(confirm_seconds=confirm_timeout)
    planned = planning.back(nodes, generation or "", options)
    if dry_run:
        _show_plan(planned, json=json)
        return
    ui.confirm(f"Go back on {', '.join(each.name for each in nodes)}?", yes=yes)
    _carry_out(here, planned, Bundle({}), json=json)


@task(iterable=["node"], help={"node": SELECTION["node"], "json": "print JSON"})
def history(_: Context, node: list[str], json: bool = False) -> None:
    """Show what was deployed to each machine, when and by whom."""
    from smallkube.core import ui
    from smallkube.deploy import history as kept
    from smallkube.remote import fleet
    from smallkube.remote.ssh import SshHost

    here = current()

    def read(each: "Node") -> tuple[kept.Entry, ...]:
        with SshHost(here.workspace, each) as session:
            return kept.read(session)

    outcomes = fleet.run([here.inventory.select(words(node))], read)
    if json:
        ui.json_result({out.node.name: [asdict(entry) for entry in out.value or ()] for out in outcomes})
    else:
        rows = [
            (out.node.name, entry.time, entry.operator, entry.goal, entry.digest[:12], entry.generation, entry.outcome)
            for out in outcomes
            for entry in out.value or ()
        ]
        ui.table(("NODE", "TIME", "OPERATOR", "GOAL", "BUNDLE", "GENERATION", "OUTCOME"), rows)
    fleet.raise_errors(outcomes)


def _show_plan(plan: "Plan", *, json: bool) -> None:
    from smallkube.core import ui

    if json:
        ui.json_result(
            {
                "goal": plan.goal,
                "bundle": plan.digest,
                "stages": [[node.name for node in stage] for stage in plan.stages],
                "steps": list(plan.steps),
                "together": plan.together,
                "left_out": list(plan.left_out),
                "confirm_seconds": plan.options.confirm_seconds,
            }
        )
        return
    aim = f"bundle {plan.digest[:12]}" if plan.generation is None else f"generation {plan.generation or 'before'}"
    ui.result(f"{plan.goal} to {aim}")
    if plan.together:
        ui.result("the peers have changed: all machines are activated, and confirmed, together")
    elif plan.options.rollback:
        ui.result(f"a machine goes back by itself after {plan.options.confirm_seconds} s unless it is confirmed")
    for position, stage in enumerate(plan.stages, 1):
        ui.result(f"stage {position}: {', '.join(node.name for node in stage)}")
    ui.result("on each node: " + " → ".join(plan.steps))


def _show_preview(reports: "Sequence[Report]", changes: "Mapping[str, Changes]") -> None:
    from smallkube.core import ui

    for report in reports:
        files = changes[report.node]
        ui.result(f"== {report.node}: {_summary(report, files)}")
        for line in files.lines():
            ui.result(f"  {line}")
        for title, text in (("closure", report.difference), ("activation", report.log)):
            for line in _shortened(text):
                ui.result(f"  {title}: {line}")


def _summary(report: "Report", files: "Changes") -> str:
    if not report.good:
        return f"{report.outcome}: {report.reason}"
    if report.outcome == "unchanged":
        return "nothing to do"
    if not files.known:
        return "nothing to compare with: not deployed from here before"
    count = len(files.lines())
    return f"{count} file{'s' if count != 1 else ''} of the configuration, {len(files.secrets)} of them secrets"


def _shortened(text: str, limit: int = 30) -> list[str]:
    lines = text.splitlines()
    return lines if len(lines) <= limit else [*lines[: limit - 1], f"… and {len(lines) - limit + 1} lines more"]


def _show(reports: "Sequence[Report]", *, json: bool) -> None:
    from smallkube.core import ui

    if json:
        ui.json_result([asdict(report) for report in reports])
        return
    for report in reports:
        for name, text in (("difference", report.difference), ("log", report.log)):
            if text and (name == "difference" or not report.good or report.outcome == "checked"):
                ui.message("\n".join((f"--- {report.node}: {name}", *_shortened(text))))
        for gate in report.unconfirmed:
            ui.message(f"{report.node}: not confirmed: {gate}")
    rows = [(r.node, r.outcome, f"{r.seconds:.1f}", r.generation, r.reason) for r in reports]
    ui.table(("NODE", "OUTCOME", "SECONDS", "GENERATION", "REASON"), rows)


@task(iterable=["node"], help={"node": SELECTION["node"], "json": "print JSON"})
def status(_: Context, node: list[str], json: bool = False) -> None:
    """Show what runs where, against the workspace and the policy."""
    from smallkube.cli.states import report
    from smallkube.deploy import checks
    from smallkube.nix import bundle

    here = current()
    inventory = here.inventory
    nodes = inventory.select(words(node))
    digest = bundle.assemble(here.workspace, inventory).digest
    existing = {path.name for path in here.workspace.keys_dir.glob("*.age")}

    def findings(each: "Node", state: "State") -> "Iterator[Finding]":
        yield from checks.system(inventory, each, state, digest)
        yield from checks.protection(inventory, each, state, existing)
        yield from checks.services(each, state)

    report(here, nodes, findings, digest, json=json)
