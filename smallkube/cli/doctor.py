"""What this machine has and lacks for the tasks."""

from invoke.context import Context

from smallkube.cli.context import JSON, current, task
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError


@task(help=JSON)
def doctor(_: Context, json: bool = False) -> None:
    """Check which tools are installed and missing.

    Says for which tasks each matters, and the command that installs it.
    """
    from smallkube.doctor import diagnosis
    from smallkube.doctor.look import look

    facts = look(current().workspace)
    rows = diagnosis.diagnose(facts)
    if json:
        ui.json_result(rows)
    else:
        for position, part in enumerate(diagnosis.Part):
            if position:
                ui.result("")
            cells = [(row.name, row.state, row.found, row.needed_for) for row in rows if row.part is part]
            ui.table(("WHAT", "STATE", "FOUND", "NEEDED FOR"), cells, title=part)
        for line in diagnosis.remedies(rows, facts.family):
            ui.message(f"to do: {line}")
    if lacking := diagnosis.blocking(rows):
        names = ", ".join(row.name for row in lacking)
        raise SmallkubeError(f"keys.*, nix.render or deploy can't work here: {names}")
