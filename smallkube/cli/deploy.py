"""Deploys: the plan, the run with automatic rollback, what was deployed and what differs."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from smallkube.cli import output
from smallkube.cli.context import CHANGE, SELECTION, Current, Limits, task
from smallkube.core import ui
from smallkube.core.checks import Check, Result, failed
from smallkube.core.errors import SmallkubeError, UsageError

if TYPE_CHECKING:
    from smallkube.deploy.facts import Changes, HostFacts
    from smallkube.deploy.plan import Plan, Report
    from smallkube.inventory.models import Node

ConfirmTimeout = Annotated[int, Limits(10, 3600), "seconds after which a node rolls back unless confirmed"]


@task(*SELECTION, "dry-run", "json", "wide")
def deploy(
    here: Current,
    goal: Annotated[str, "switch | boot | test | dry-activate | build, as in nixos-rebuild"] = "switch",
    build_on: Annotated[str, "target: build on each machine; local: build here and copy"] = "target",
    batch: Annotated[int, Limits(0), "workers deployed at the same time (0: all)"] = 0,
    max_failures: Annotated[int, Limits(0), "nodes that may fail before the deploy stops"] = 0,
    confirm_timeout: ConfirmTimeout = 300,
    no_rollback: Annotated[bool, "disable automatic rollback; failures are reported, not undone"] = False,
    no_drain: Annotated[bool, "do not drain nodes whose services restart"] = False,
    with_peers: Annotated[bool, "also deploy to nodes whose WireGuard peers have changed"] = False,
    accept_changes: Annotated[bool, "deploy values that a running cluster cannot take without harm"] = False,
    force: Annotated[bool, "deploy even keys that are older than those on a node"] = False,
) -> None:
    """Deploy to the nodes, with automatic rollback.

    The primary first, then the workers in batches. Each node rolls back to its
    previous generation unless a new connection confirms that it is healthy.
    """
    from smallkube.deploy.plan import BuildOn, Goal, Options, choose, prepare

    nodes = here.nodes
    where = choose(BuildOn, "build-on", build_on)
    drain, rollback = not no_drain, not no_rollback
    safety = (confirm_timeout, rollback, drain, with_peers, where, accept_changes, force)
    options = Options(batch or None, max_failures, *safety)
    target, connect = choose(Goal, "goal", goal), here.connect
    plan = prepare(here.cluster, nodes, target, options, may_lock=not here.dry_run, connect=connect)
    if left_out := ", ".join(plan.left_out):
        ui.warn(f"the peers have changed; {left_out} will not get the new ones; --with-peers includes them")
    for text in plan.warnings:
        ui.warn(text)
    if here.dry_run:
        from smallkube.nix.check import check

        ui.message("evaluating the configuration, as inv nix.check does")
        _show_plan(here, plan, check(plan.bundle.files, [each.name for each in plan.nodes], {}))
        return
    _carry_out(here, plan)


def _progress(here: Current, plan: "Plan") -> ui.Progress:
    return ui.Progress([each.name for each in plan.nodes], verbose=here.verbose)


def _carry_out(here: Current, plan: "Plan") -> None:
    from smallkube.deploy import run
    from smallkube.operations import identities

    with _outage_reported(here, plan), _progress(here, plan) as progress:
        reports = run.execute(plan, here.cluster, progress, here.pool)
    _show(here, reports)
    if bad := ", ".join(f"{report.node} {report.outcome}" for report in reports if not report.good):
        raise SmallkubeError(f"not everything was deployed: {bad}")
    if plan.activates and plan.generation is None and here.inventory.primary in plan.nodes:
        with suppress(SmallkubeError):  # cluster.status tells what is left
            identities.settle(here.cluster, here.connect)


@contextmanager
def _outage_reported(here: Current, plan: "Plan") -> Iterator[None]:
    """Say in the end how often the API server restarted, where the primary is deployed to and can be asked."""
    from smallkube.operations import engine

    primary, began = here.inventory.primary, time.monotonic()
    yield
    with suppress(SmallkubeError):
        if primary in plan.nodes:
            seconds = int(time.monotonic() - began) + 1
            ui.message(engine.outage_of_last(here.connect, primary, seconds).words)


@task(*SELECTION, "json")
def plan(here: Current) -> None:
    """Show what a deploy would change.

    Builds on the nodes, and activates nothing.
    """
    from smallkube.deploy import facts, run
    from smallkube.deploy.plan import Goal, prepare
    from smallkube.remote.fleet import NodeOutcome, reason_of

    planned = prepare(here.cluster, here.nodes, Goal.DRY_ACTIVATE, connect=here.connect)
    for text in planned.warnings:
        ui.warn(text)
    outcomes = here.ask(planned.nodes, lambda host: facts.changes(host, planned.bundle))
    changes = {outcome.node.name: outcome.value or facts.Changes(known=False) for outcome in outcomes}
    with _progress(here, planned) as progress:
        reports = run.execute(planned, here.cluster, progress, here.pool)
    for report, outcome in zip(reports, outcomes, strict=True):
        if outcome.error and report.good:
            report.outcome, report.reason = NodeOutcome.FAILED, reason_of(outcome.error)
    if here.json:
        ui.json_result([{**asdict(report), "files": changes[report.node]} for report in reports])
    else:
        _show_preview(here, reports, changes)
    if not all(report.good for report in reports):
        raise SmallkubeError("the plan failed on some nodes")


@task(*SELECTION, *CHANGE, "wide")
def rollback(
    here: Current,
    generation: Annotated[str | None, "number of the generation (default: the previous one)"] = None,
    confirm_timeout: ConfirmTimeout = 300,
) -> None:
    """Roll back nodes to a previous generation.

    As in a deploy, a node returns to the present generation unless it is
    confirmed. Across a minor version of Kubernetes, workers come first.
    """
    from smallkube.deploy import plan as planning
    from smallkube.deploy import rollbacks
    from smallkube.deploy.facts import generations
    from smallkube.remote.fleet import raise_errors

    nodes = here.nodes
    if generation and not generation.isdecimal():
        raise UsageError(f"--generation {generation}: not a number", hint="see inv deploy.history")
    rollbacks.refuse_skew(here.cluster, nodes, generation or "", here.connect)
    planned = planning.rollback(nodes, generation or "", planning.Options(confirm_seconds=confirm_timeout))
    if here.dry_run:
        raise_errors(here.ask(nodes, lambda host: generations(host).find(generation or "")))
        _show_plan(here, planned)
        return
    ui.confirm(f"Roll back {', '.join(each.name for each in nodes)}?", yes=here.yes)
    _carry_out(here, planned)


@task("node", "json", "wide")
def history(here: Current) -> None:
    """Show what was deployed, when and by whom."""
    from smallkube.deploy.history import read
    from smallkube.remote.fleet import raise_errors

    outcomes = here.ask(here.nodes, read)
    rows = [
        (out.node.name, entry.time, entry.operator, entry.goal, entry.digest[:12], entry.generation, entry.outcome)
        for out in outcomes
        for entry in out.value or ()
    ]
    entries = {out.node.name: out.value or () for out in outcomes}
    columns = ("NODE", "TIME", "OPERATOR", "GOAL", "BUNDLE", "GENERATION", "OUTCOME")
    output.table(here, entries, columns, rows, spare=("BUNDLE", "GOAL"))
    raise_errors(outcomes)


def _show_plan(here: Current, plan: "Plan", checks: Sequence[Check] = ()) -> None:
    """``checks``: of the configuration. Raises SmallkubeError when one failed: a deploy would fail, too."""
    from smallkube.deploy.node import steps
    from smallkube.remote.openssh import Route

    targets = {node.name: str(Route.to(node)) for node in plan.nodes}
    titles = [step.title for step in steps(plan)]
    value = {
        "cluster": here.inventory.cluster.name,
        "workspace": str(here.workspace.root),
        "targets": targets,
        "not_asked": list(plan.not_asked),
        "goal": plan.goal,
        "bundle": plan.digest,
        "stages": [[node.name for node in stage] for stage in plan.stages],
        "steps": titles,
        "lockstep": plan.lockstep,
        "left_out": list(plan.left_out),
        "confirm_seconds": plan.options.confirm_seconds,
        "checks": checks,
    }
    generation = f"generation {plan.generation}" if plan.generation else "the previous generation"
    lines = [f"cluster {here.inventory.cluster.name}, workspace {here.workspace.root}"]
    lines.append(f"{plan.goal} to {generation if plan.generation is not None else f'bundle {plan.digest[:12]}'}")
    if plan.not_asked:
        lines.append(f"unreachable, so not compared with the workspace: {', '.join(plan.not_asked)}")
    if plan.lockstep:
        lines.append("the peers have changed: all nodes are activated and confirmed in lockstep")
    elif plan.options.rollback:
        lines.append(f"each node rolls back after {plan.options.confirm_seconds} s unless it is confirmed")
    for position, stage in enumerate(plan.stages, 1):
        lines.append(f"stage {position}: {', '.join(f'{node.name} ({targets[node.name]})' for node in stage)}")
    lines += ["on each node:", *(f"- {title}" for title in titles), *_needs(here, plan), *_findings(checks)]
    output.show(here, value, "\n".join(lines))
    if bad := dict.fromkeys(check.subject or check.check for check in failed(checks)):
        raise SmallkubeError(f"checks failed: {', '.join(bad)}", hint="see inv nix.check")


def _needs(here: Current, plan: "Plan") -> Iterator[str]:
    """What needs the network, beside the connections to the nodes."""
    if plan.generation is None:
        where = "this machine" if plan.options.build_on == "local" else "each node"
        yield f"needs the network: {where}, for what its Nix store lacks"
        if not here.workspace.flake_lock.is_file():
            yield "nix/flake.lock is missing: the deploy makes it, which needs the network"


def _findings(checks: Sequence[Check]) -> Iterator[str]:
    """What is wrong with the configuration and what was not checked, beyond what a deploy warns of itself."""
    from smallkube.nix.check import BOOT, LOCK

    for check in checks:
        if check.result in (Result.WARNING, Result.FAILED) and check.check not in (BOOT, LOCK):
            yield f"{check.subject} {check.check}: {check.result}: {check.detail}".strip()
    if skipped := [check for check in checks if check.result is Result.SKIPPED]:
        names = ", ".join(dict.fromkeys(check.check for check in skipped))
        yield f"not checked here: {names} ({skipped[0].detail})"


def _difference(here: Current, report: "Report") -> list[str]:
    """The difference between the closures as a count, or the packages with --verbose."""
    count = len(report.difference.splitlines())
    if here.verbose or not count:
        return report.difference.splitlines()
    return [f"{count} package{'s' if count != 1 else ''} differ{'' if count != 1 else 's'} (--verbose lists them)"]


def _show_preview(here: Current, reports: "Sequence[Report]", changes: "Mapping[str, Changes]") -> None:
    for report in reports:
        files = changes[report.node]
        ui.result(f"== {report.node}: {_summary(report, files)}")
        for line in files.lines():
            ui.result(f"  {line}")
        for title, lines in (("closure", _difference(here, report)), ("activation", _shortened(report.log))):
            for line in lines:
                ui.result(f"  {title}: {line}")


def _summary(report: "Report", files: "Changes") -> str:
    if not report.good:
        return f"{report.outcome}: {report.reason}"
    if report.outcome == "unchanged":
        return "nothing to do"
    if not files.known:
        return "nothing to compare with: first deploy from here"
    count = len(files.lines())
    return f"{count} file{'s' if count != 1 else ''} of the configuration, {len(files.secrets)} of them secrets"


def _shortened(text: str, limit: int = 30) -> list[str]:
    lines = text.splitlines()
    return lines if len(lines) <= limit else [*lines[: limit - 1], f"… and {len(lines) - limit + 1} lines more"]


def _show(here: Current, reports: "Sequence[Report]") -> None:
    if here.json:
        ui.json_result(reports)
        return
    for report in reports:
        for line in _difference(here, report):
            ui.message(f"{report.node}: {line}")
        if report.log and (not report.good or report.outcome == "checked"):
            ui.message("\n".join((f"--- {report.node}: log", *_shortened(report.log))))
        for unit, text in report.journal.items():
            ui.message(f"--- {report.node}: journal of {unit}\n{text}")
        for check in report.unconfirmed:
            ui.message(f"{report.node}: not confirmed: {check}")
    rows = [(r.node, r.outcome, f"{r.seconds:.1f}", r.generation, r.reason) for r in reports]
    ui.table(("NODE", "OUTCOME", "SECONDS", "GENERATION", "REASON"), rows, wide=here.wide)


@task("node", "json", "wide")
def status(here: Current) -> None:
    """Show what each node runs, and drift.

    Compares the system, its secrets and its services with the workspace.
    """
    from smallkube.deploy import checks
    from smallkube.nix import bundle

    inventory = here.inventory
    nodes = here.nodes
    digest = bundle.assemble(here.cluster).digest
    existing = {path.name for path in here.workspace.keys_dir.glob("*.age")}

    def examine(each: "Node", facts: "HostFacts") -> Iterator[Check]:
        yield checks.system(each, facts, digest)
        yield from checks.protection(inventory, each, facts, existing)
        yield from checks.services(each, facts)

    output.check_nodes(here, nodes, examine, digest)
