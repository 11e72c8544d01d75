"""The official conformance tests of Kubernetes against a cluster of one's own."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from smallkube.cli import output
from smallkube.cli.context import Current, Limits, task
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError, UsageError, listed
from smallkube.core.files import lock, write_file
from smallkube.core.workspace import expanded

if TYPE_CHECKING:
    from smallkube.conformance.record import Record
    from smallkube.conformance.report import Report
    from smallkube.conformance.runner import Suite

Focus = Annotated[str | None, "only tests whose name matches this regular expression, such as 'sig-(auth|cli)'"]
Resume = Annotated[bool, "resume an interrupted run: only the tests that have no result"]
Processes = Annotated[int, Limits(1, 64), "tests at the same time; serial and disruptive ones always run alone, last"]
PROCESSES = 4


@task("json", "wide")
def conformance(
    here: Current,
    program: Annotated[
        str, "e2e.test, of the tarball kubernetes-test of the cluster's Kubernetes release; beside it, ginkgo"
    ],
    kubeconfig: Annotated[str | None, "the cluster (default: .smallkube/kubeconfig in the workspace)"] = None,
    kubectl: Annotated[str | None, "kubectl of the same version (default: that on PATH)"] = None,
    focus: Focus = None,
    resume: Resume = False,
    processes: Processes = PROCESSES,
) -> None:
    """Run Kubernetes' official conformance tests.

    They take an hour or more, make and remove namespaces, and some of them
    disturb the nodes: not for a cluster in use. The record stays in
    .smallkube/conformance in the workspace: JUnit XML, logs of the tests that
    failed. Ctrl-C ends the tests and keeps their results. Exit status: 0 all
    passed; 1 a test failed or did not run.
    """
    from smallkube.conformance import runner

    domain = here.inventory.cluster.domain
    file = expanded(kubeconfig) if kubeconfig else here.workspace.state_dir / "kubeconfig"
    if not file.is_file():
        raise UsageError("missing", where=str(file), hint="run `inv cluster.kubeconfig`, or pass --kubeconfig FILE")
    found = runner.program_at(expanded(program)), file.absolute(), runner.kubectl_at(kubectl)
    suite = runner.Suite(*found, domain, processes)
    show(here, run_suite(here, suite, suite.tests(), focus, resume))


def run_suite(here: Current, suite: "Suite", every: Sequence[str], focus: str | None, resume: bool) -> "Report":
    """Run those of ``every`` test under the lock that makes it one run at a time, recording and showing each result."""
    from smallkube.conformance import catalogue
    from smallkube.conformance.record import Record
    from smallkube.core.process import signals_as_errors

    wanted = catalogue.select(every, focus)
    with lock(here.workspace.state_dir / "conformance.lock", "the conformance tests"):
        record = Record(here.workspace.state_dir / "conformance")
        _begin(suite, record, resume)
        try:
            with signals_as_errors("--resume runs the others"):
                _run_groups(suite, record, wanted)
        except KeyboardInterrupt:
            ui.message(f"interrupted: {len(record.outcomes())} tests have a result; --resume runs the others")
            raise
        finally:
            report = _report(record, suite.version(), wanted, len(every))
    return report


def _begin(suite: "Suite", record: "Record", resume: bool) -> None:
    from smallkube.conformance.record import Run

    version = suite.version()
    if resume:
        record.resumed(version)
        ui.message(f"{len(record.outcomes())} tests have a result already")
        return
    server, nodes, runtime = suite.facts()
    record.begin(Run(version, server, nodes, runtime, datetime.now(UTC).isoformat(timespec="seconds")))
    if not suite.ginkgo and suite.processes > 1:
        ui.warn(f"no ginkgo beside {suite.program}: one test at a time")


def _run_groups(suite: "Suite", record: "Record", wanted: tuple[str, ...]) -> None:
    from smallkube.cli.bar import Bar
    from smallkube.conformance import catalogue, runner
    from smallkube.conformance.outcome import FAILED, Outcome

    outcomes = [outcome for outcome in record.outcomes() if outcome.name in wanted]
    with Bar() as bar:
        for group in catalogue.groups(wanted, {outcome.name for outcome in outcomes}):
            before = len(outcomes)
            bar.stage(f"{group.title} tests", len(group.names))
            bar.at(0, f"{before} of {len(wanted)}, the first of {len(group.names)} {group.title} ones")

            def take(outcome: Outcome, before: int = before) -> None:
                record.add(outcome)
                outcomes.append(outcome)
                failed = sum(each.state == FAILED for each in outcomes)
                total = f"{len(outcomes)} of {len(wanted)}, {failed} failed"
                bar.at(len(outcomes) - before, f"{total}: {outcome.name}")

            runner.run(suite, group, take, record.output)


def _report(record: "Record", version: str, wanted: tuple[str, ...], every: int) -> "Report":
    from smallkube.conformance import report

    by_name = {outcome.name: outcome for outcome in record.outcomes()}
    outcomes = [by_name[name] for name in wanted if name in by_name]
    made = report.Report(record.resumed(version), wanted, outcomes, every)
    write_file(record.junit, report.junit(made))
    return made


def show(here: Current, report: "Report") -> None:
    """The result: the table and the tests that failed. Raises SmallkubeError when not all passed."""
    from smallkube.conformance.outcome import FAILED
    from smallkube.conformance.report import COLUMNS

    folder = here.workspace.state_dir / "conformance"
    value = {**asdict(report.run), "summary": report.summary, "not_run": report.not_run, "results": report.outcomes}
    output.table(here, value, COLUMNS, report.rows())
    for outcome in report.of(FAILED):
        ui.message(f"failed: {outcome.name}\n  {outcome.message}\n  {folder / outcome.log}")
    ui.message(f"{report.summary}; JUnit XML: {folder / 'junit.xml'}")
    if bad := (*(outcome.name for outcome in report.of(FAILED)), *report.not_run):
        raise SmallkubeError(f"not passed: {listed(bad, 2)}")
