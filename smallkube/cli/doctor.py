"""What this machine has and lacks for the tasks."""

from smallkube.cli.context import Current, task
from smallkube.core import ui
from smallkube.core.checks import failed
from smallkube.core.errors import SmallkubeError


@task("json", "wide")
def doctor(here: Current) -> None:
    """Check which tools are installed and missing.

    Says for which tasks each matters, and the command that installs it.
    """
    from smallkube.doctor import diagnosis, facts

    found = facts.read(here.workspace)
    findings = diagnosis.diagnose(found)
    if here.json:
        ui.json_result(findings)
    else:
        for part in diagnosis.PARTS:
            rows = [(one.check, one.result, one.detail, one.needed_for) for one in findings if one.subject == part]
            ui.table(("WHAT", "RESULT", "FOUND", "NEEDED FOR"), rows, title=part, wide=here.wide)
            if part != diagnosis.PARTS[-1]:
                ui.result("")
        for line in diagnosis.remedies(findings, found.family):
            ui.message(f"to do: {line}")
    if lacking := failed(findings):
        names = ", ".join(finding.check for finding in lacking)
        raise SmallkubeError(f"keys.*, nix.render or deploy can't work here: {names}")
