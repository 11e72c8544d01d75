"""A run of the conformance suite in the lab: deployed by the operator's own commands, the result written down."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import conformance_extended
from lab.cluster import Lab
from lab.command import with_parent
from lab.conformance import PROGRAMS
from lab.containers import bring
from lab.kubernetes import PROGRAMS as KUBERNETES
from smallkube.cli.bar import Bar
from smallkube.cli.conformance import run_suite
from smallkube.cli.context import Current
from smallkube.conformance.outcome import FAILED, PASSED, SKIPPED
from smallkube.conformance.record import Run
from smallkube.conformance.report import COLUMNS, Report
from smallkube.conformance.runner import Suite
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError, one_line
from smallkube.core.files import write_file
from smallkube.core.workspace import REPOSITORY, Workspace
from smallkube.inventory.load import load

DOCUMENT = REPOSITORY / "docs/conformance.md"
COMPLETE = "<!-- the last complete result, written by inv lab.conformance -->\n"
EXTENDED = "<!-- the last complete result, written by inv lab.conformance --extended -->\n"
OPERATED = "<!-- the last complete result, written by inv lab.conformance --operations -->\n"
"""Before and after a result in DOCUMENT."""
KUBECONFIG = "cluster.kubeconfig --via tunnel"
STEPS = ("keys.scan --yes", "keys.generate", "nix.render", "deploy", "cluster.smoke", KUBECONFIG)
OPERATIONS = (
    ("tokens.rotate --all --yes",),
    ("encryption.rotate --yes",),
    ("etcd.backup", "etcd.restore --yes"),
    ("nodes.reboot --yes",),
)
"""What a cluster goes through, each before the tests of SLICE."""
SLICE = (
    "ServiceAccounts should (mount an API token|allow opting out)|OIDC discovery"
    "|DNS for (the cluster|services|pods)|serve a basic endpoint|session affinity work for (NodePort|service)"
    "|pod communication: http|(Secrets|ConfigMap|Projected .*) should be consumable (from pods )?in (multiple|env)"
    r"|EmptyDir volumes should support \(root,0644"
)
"""Tests of sig-network, sig-auth and sig-storage, two minutes."""


@dataclass(frozen=True)
class Cluster:
    """The three machines of ``lab``; ``tests`` and ``kubernetes``: where the programs of each are built."""

    lab: Lab
    workspace: Workspace
    tests: Path
    kubernetes: Path
    processes: int

    def inv(self, step: str) -> None:
        """Run a task of the operator. Raises SmallkubeError when it fails."""
        ui.message(f"$ inv {step}")
        argv = with_parent([sys.executable, "-m", "invoke", *step.split()])
        environment = {**os.environ, "SMALLKUBE_WORKSPACE": str(self.workspace.root)}
        # What a step prints as its result is not this task's.
        done = subprocess.run(argv, check=False, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=2)
        if done.returncode:
            raise SmallkubeError(f"inv {step} failed", where=self.lab.name, hint="see above")

    def deploy(self) -> None:
        """Deploy to the machines, test that the cluster works, and give it the images of the tests."""
        for step in STEPS:
            self.inv(step)
        for machine in self.lab.machines:
            ui.message(f"{machine.name}: importing images")
            bring(machine, self.tests / PROGRAMS.prefix / "images")

    def suite(self) -> Suite:
        """The tests, run in the network of the primary, which reaches the API server through the tunnel."""
        program = self.tests / PROGRAMS.prefix / "bin/e2e.test"
        kubectl = self.kubernetes / KUBERNETES.prefix / "bin/kubectl"
        domain = load(self.workspace.inventory_file).cluster.domain
        inside = ("nsenter", f"--net=/proc/{self.lab.machine('node1').init}/ns/net", "--")
        return Suite(program, self.workspace.state_dir / "kubeconfig", kubectl, domain, self.processes, inside)

    def operations(self) -> Iterator[str]:
        """The names of OPERATIONS, each when it has succeeded. Raises SmallkubeError when one fails."""
        for steps in OPERATIONS:
            for step in (*steps, KUBECONFIG):  # its token may be another
                self.inv(step)
            yield steps[-1].split()[0]


def bring_up(lab: Lab, processes: int, extended: bool) -> Cluster:
    """Build what is missing, and start the machines; for the ``extended`` tests with dual-stack Services."""
    with Bar() as bar:
        kubernetes, tests = (programs.ensure(lab.places.cache, bar) for programs in (KUBERNETES, PROGRAMS))
    with ui.Progress([f"node{index}" for index in (1, 2, 3)]) as progress:
        workspace = Workspace(lab.up(3, None, ui.message, progress.step, kubernetes))
    if extended:
        conformance_extended.give_services_ipv6(workspace.inventory_file)
    return Cluster(lab, workspace, tests, kubernetes, processes)


def after_operations(here: Current, cluster: Cluster, focus: str | None) -> Report:
    """Run the tests of ``focus`` or SLICE after each operation, until one fails; the last report."""
    lines = ["| after | result | seconds |", "| --- | --- | --- |"]
    for name in cluster.operations():
        suite = cluster.suite()
        report = run_suite(here, suite, suite.tests(), focus or SLICE, False)
        lines.append(f"| `inv {name}` | {report.summary} | {sum(each.seconds for each in report.outcomes):.0f} |")
        if len(report.of(PASSED)) < len(report.wanted):
            return report
        ui.message(f"after inv {name}: {report.summary}")
    if focus is None:
        publish(OPERATED, "\n".join([f"On {report.run.began[:10]}: {tested(report.run)}.", "", *lines, ""]))
    return report


def choice(suite: Suite, extended: bool) -> tuple[Sequence[str], str, str]:
    """The tests to run, the mark of their result in DOCUMENT, and what stands there beside the result."""
    if not extended:
        return suite.tests(), COMPLETE, ""
    others = conformance_extended.others(suite.every(), suite.tests())
    return conformance_extended.possible(others), EXTENDED, f"\n{conformance_extended.left_out(others)}"


def publish(mark: str, text: str, file: Path = DOCUMENT) -> None:
    """Replace what is between both ``mark`` in ``file``."""
    before, _, rest = file.read_text().partition(mark)
    write_file(file, f"{before}{mark}\n{text}\n{mark}{rest.partition(mark)[2]}")


def tested(run: Run) -> str:
    """What was tested with what."""
    return f"Kubernetes {run.server}, tests {run.program}, {run.nodes} nodes, {run.runtime}"


def document(report: Report) -> str:
    """The last complete result, as a section of Markdown."""
    lines = [
        f"{report.summary} on {report.run.began[:10]}: {tested(report.run)}.",
        "",
        f"| {' | '.join(column.capitalize() for column in COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
        *(f"| {' | '.join(str(cell) for cell in row)} |" for row in report.rows()),
    ]
    skips = Counter(outcome.message for outcome in report.of(SKIPPED))
    lines += _listed("Failed", [f"{_code(outcome.name)}: {_code(outcome.message)}" for outcome in report.of(FAILED)])
    lines += _listed("Skipped by the tests themselves", [f"{_code(why)} ({skips[why]})" for why in sorted(skips)])
    return "\n".join(lines) + "\n"


def _listed(title: str, entries: Sequence[str]) -> list[str]:
    return ["", f"{title}:", "", *(f"- {entry}" for entry in entries)] if entries else []


def _code(text: str) -> str:
    return f"`{one_line(text.replace('`', ' '))}`"
