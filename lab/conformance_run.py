"""A run of the conformance suite in the lab: deployed by the operator's own commands, the result written down."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from lab.cluster import Lab
from lab.command import with_parent
from lab.conformance import PROGRAMS
from lab.containers import bring
from smallkube.conformance.outcome import FAILED
from smallkube.conformance.report import COLUMNS, Report
from smallkube.conformance.runner import Suite
from smallkube.core.errors import SmallkubeError, one_line
from smallkube.core.files import write_file
from smallkube.core.workspace import REPOSITORY, Workspace
from smallkube.inventory.load import load

DOCUMENT = REPOSITORY / "docs/conformance.md"
RESULT = "<!-- the last complete result, written by inv lab.conformance -->\n"
"""Before and after the result in DOCUMENT."""
STEPS = ("keys.scan --yes", "keys.generate", "nix.render", "deploy", "cluster.smoke", "cluster.kubeconfig --via tunnel")


def deploy(lab: Lab, workspace: Path, tests: Path, say: Callable[[str], None]) -> None:
    """Deploy to the machines of ``lab``, test that the cluster works, and give it the images of ``tests``.

    Raises SmallkubeError when a step fails.
    """
    environment = {**os.environ, "SMALLKUBE_WORKSPACE": str(workspace)}
    for step in STEPS:
        say(f"$ inv {step}")
        argv = with_parent([sys.executable, "-m", "invoke", *step.split()])
        # What a step prints as its result is not this task's.
        done = subprocess.run(argv, check=False, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=2)
        if done.returncode:
            raise SmallkubeError(f"inv {step} failed", where=lab.name, hint="see above")
    for machine in lab.machines:
        say(f"{machine.name}: importing images")
        bring(machine, tests / PROGRAMS.prefix / "images")


def on(lab: Lab, tests: Path, kubectl: Path, workspace: Workspace, processes: int) -> Suite:
    """The tests, run in the network of the lab's primary, which reaches the API server through the tunnel."""
    program = tests / PROGRAMS.prefix / "bin/e2e.test"
    domain = load(workspace.inventory_file).cluster.domain
    inside = ("nsenter", f"--net=/proc/{lab.machine('node1').init}/ns/net", "--")
    return Suite(program, workspace.state_dir / "kubeconfig", kubectl, domain, processes, inside)


def publish(report: Report, file: Path = DOCUMENT) -> bool:
    """Write the result of a complete run into docs/conformance.md; returns whether it was complete."""
    if report.not_run or len(report.outcomes) < report.all_tests:
        return False
    before, _, rest = file.read_text().partition(RESULT)
    write_file(file, f"{before}{RESULT}\n{document(report)}\n{RESULT}{rest.partition(RESULT)[2]}")
    return True


def document(report: Report) -> str:
    """The result as a section of Markdown."""
    run = report.run
    tested = f"Kubernetes {run.server}, tests {run.program}, {run.nodes} nodes, {run.runtime}"
    lines = [
        f"{report.summary} on {run.began[:10]}: {tested}.",
        "",
        f"| {' | '.join(column.capitalize() for column in COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
        *(f"| {' | '.join(str(cell) for cell in row)} |" for row in report.rows()),
    ]
    failures = [f"- {_code(outcome.name)}: {_code(outcome.message)}" for outcome in report.of(FAILED)]
    return "\n".join([*lines, *(["", "Failed:", "", *failures] if failures else [])]) + "\n"


def _code(text: str) -> str:
    return f"`{one_line(text.replace('`', ' '))}`"
