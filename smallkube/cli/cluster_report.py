"""The page that shows the whole cluster."""

import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from smallkube.cli.context import Current, Limits, task
from smallkube.core import ui
from smallkube.core.errors import UsageError
from smallkube.core.files import write_file
from smallkube.core.workspace import STATE_FOLDER, expanded

PAGE = "report.html"


@task("json")
def report(
    here: Current,
    out: Annotated[str | None, f"HTML file to write (default: {STATE_FOLDER}/{PAGE}; with --json none)"] = None,
    watch: Annotated[int, Limits(0, 86400), "write it again every so many seconds, until Ctrl-C (0: once)"] = 0,
) -> None:
    """Write a page that shows the whole cluster.

    One HTML file that needs nothing else: topology, nodes, findings with the
    command for each, versions, certificates and tokens, backups, deploys. What
    does not answer is a finding. --json prints the same data. Exit status: 0
    once it is written, whatever it shows.
    """
    path = expanded(out) if out else None if here.json else here.workspace.state_dir / PAGE
    if path and path.is_dir():
        raise UsageError(f"--out {path}: is a folder", hint="name a file")
    if not watch:
        _write(here, path, watch)
        return
    with suppress(KeyboardInterrupt):
        while True:
            began = time.monotonic()
            _write(here, path, watch)
            ui.flush()
            time.sleep(max(0.0, began + watch - time.monotonic()))


def _write(here: Current, path: Path | None, watch: int) -> None:
    from smallkube.operations import report_page
    from smallkube.operations.report_facts import Reader

    found = Reader(here.cluster, here.connect, datetime.now(UTC)).read()
    if path:
        write_file(path, report_page.render(found, watch))
    if here.json:
        ui.json_result(found)
    elif path:
        counts = f"{len(found.findings)} finding{'' if len(found.findings) == 1 else 's'}"
        ui.result(f"{path}: {found.cluster}, {counts}")
