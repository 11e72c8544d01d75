"""Shared by tasks that read the machines' states: ask all nodes at once, show the findings, fail on a fault."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smallkube.cli import Current
    from smallkube.deploy.checks import Finding
    from smallkube.deploy.inspection import State
    from smallkube.inventory.models import Node


def report(
    here: "Current",
    nodes: "Sequence[Node]",
    judge: "Callable[[Node, State], Iterable[Finding]]",
    digest: str,
    *,
    json: bool,
) -> None:
    """Inspect ``nodes`` in parallel and print what ``judge`` finds.

    Raises SmallkubeError (exit status 1) when a check failed or a node could not be asked.
    """
    from smallkube.core import ui
    from smallkube.core.errors import SmallkubeError
    from smallkube.deploy import inspection
    from smallkube.deploy.checks import Finding
    from smallkube.remote import fleet
    from smallkube.remote.ssh import SshHost

    inventory = here.inventory

    def read(node: "Node") -> "State":
        with SshHost(here.workspace, node) as session:
            return inspection.read(session, inventory, digest)

    findings: list[Finding] = []
    for outcome in fleet.run([nodes], read):
        if outcome.value:
            findings += judge(outcome.node, outcome.value)
        else:
            findings.append(Finding(outcome.node.name, "connection", "failed", str(outcome.error)))
    if json:
        ui.json_result([asdict(finding) for finding in findings])
    else:
        rows = [(finding.node, finding.check, finding.result, finding.detail) for finding in findings]
        ui.table(("NODE", "CHECK", "RESULT", "DETAIL"), rows)
    failed = sorted({finding.node for finding in findings if finding.result == "failed"})
    if failed:
        raise SmallkubeError(f"not all is well on {', '.join(failed)}")
