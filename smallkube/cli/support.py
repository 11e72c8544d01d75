"""The archive of what explains a fault."""

from datetime import UTC, datetime
from typing import Annotated

from smallkube.cli import output
from smallkube.cli.context import Current, task
from smallkube.core import ui
from smallkube.core.errors import ErrorGroup, SmallkubeError, UsageError
from smallkube.core.files import write_file
from smallkube.core.workspace import expanded, make_folder


@task("json")
def support(
    here: Current,
    out: Annotated[str | None, "the file (default: .smallkube/support/DATE.tar.gz)"] = None,
) -> None:
    """Write an archive of what explains a fault.

    State, units, journals, firewall rules, events and versions, without
    secrets: look through it before you pass it on, since programs of your own
    may print what only you know to be secret.
    """
    from smallkube.operations import support as collecting

    now = datetime.now(UTC)
    default = here.workspace.state_dir / "support" / f"{now:%Y-%m-%dT%H%M%SZ}.tar.gz"
    file = expanded(out) if out else default
    if file.exists():
        raise UsageError(f"--out {file}: exists", hint="name a new file")
    found = collecting.collect(here.cluster, here.connect, now)
    if not out:
        make_folder(file.parent)
    write_file(file, found.data, 0o600)
    value = {"file": str(file), "bytes": len(found.data), "files": found.names, "missing": found.missing}
    output.show(here, value, f"{file}: {len(found.names)} files, {len(found.data) / 1e6:.1f} MB")
    if not here.json:
        ui.message("secrets are masked; look through it before you pass it on")
    if found.missing:
        raise ErrorGroup([SmallkubeError(f"not asked: {why}", where=name) for name, why in found.missing.items()])
