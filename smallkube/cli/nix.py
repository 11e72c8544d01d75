"""The Nix configuration: render it from the inventory, check it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from smallkube.cli import output
from smallkube.cli.context import Current, task
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.files import write_file
from smallkube.core.workspace import expanded

if TYPE_CHECKING:
    from smallkube.nix.advisories import Advisory


@task()
def render(
    here: Current,
    check: Annotated[bool, "write nothing; exit status 1 when a file is stale"] = False,
    diff: Annotated[bool, "show the changes as a unified diff"] = False,
    update_lock: Annotated[bool, "update nix/flake.lock (needs Nix and network here)"] = False,
    advisories: Annotated[str, "for --update-lock: folder with advisories of Kubernetes, as OSV (default: none)"] = "",
) -> None:
    """Render the Nix configuration from the inventory.

    Writes nix/flake.nix and nix/rendered/.
    """
    from smallkube.nix import bundle, lockfile, render
    from smallkube.nix.advisories import read

    if advisories and not update_lock:
        raise UsageError("--advisories is for --update-lock")
    known = read(expanded(advisories)) if advisories else ()
    plan, place = render.plan(here.cluster), here.workspace
    changed = plan.changed
    lock = lockfile.stale_line(place.read(place.flake_lock), plan.files[place.flake_file].encode())
    if diff and changed:
        ui.result(plan.diff(here.workspace.root).rstrip("\n"))
    names = [here.workspace.relative(path) for path in changed]
    if check:
        if names:
            raise SmallkubeError(f"stale: {', '.join(names)}", hint="run `inv nix.render`")
        if lock:
            raise SmallkubeError(lock)
        return
    plan.apply()
    for name, path in zip(names, changed, strict=True):
        ui.message(f"{'removed' if path in plan.obsolete else 'written'} {name}")
    if update_lock:
        _update_lock(here, bundle.assemble(here.cluster).files, known)
    elif lock:
        ui.warn(lock)
    elif not names:
        ui.message("nothing to do: everything rendered is current")


def _update_lock(here: Current, files: Mapping[str, bytes], known: "Sequence[Advisory]") -> None:
    """Renew nix/flake.lock and show what that changes: inputs, and versions as far as they can be evaluated."""
    from smallkube.nix import flake, lockfile

    old, new = files.get(flake.LOCK_FILE), flake.lock(files, update=True)
    changed = write_file(here.workspace.flake_lock, new)
    ui.message("nix/flake.lock is renewed" if changed else "nix/flake.lock is the newest there is")
    if not changed and not known:
        return
    lines = list(lockfile.changes(old, new))
    try:
        node = here.cluster.inventory.primary.name
        before, after = (flake.versions({**files, flake.LOCK_FILE: text}, node) for text in (old or new, new))
        lines += lockfile.version_changes(before, after)
        lines += _advisories(known, before.get("kubernetes", ""), after.get("kubernetes", "")) if known else ()
    except SmallkubeError as error:
        ui.warn(f"versions of packages are unknown: {error.message}")
    for line in lines:
        ui.result(line)


def _advisories(known: "Sequence[Advisory]", before: str, after: str) -> Iterator[str]:
    from smallkube.nix.advisories import compare

    newest = max(each.day for each in known)
    ui.message(f"advisories of Kubernetes read: {len(known)}, the newest of {newest}")
    try:
        found = list(compare(known, before, after))
    except ValueError as error:
        ui.warn(f"advisories were not compared: {error}")
        return
    yield from found or [f"no advisory for Kubernetes {after}"]


@task("node", "json", "wide")
def check(
    here: Current,
    override_input: Annotated[
        list[str], "NAME=URL in place of an input of the flake (repeatable; default: flake.lock's)"
    ],
) -> None:
    """Parse and evaluate the flake that deploy builds.

    Checks units, firewall, network files and scripts of every node; says what
    could not be checked here, and which inputs were used.
    """
    from smallkube.nix import bundle
    from smallkube.nix.check import check as check_files

    if wrong := [text for text in override_input if not re.fullmatch("[^=]+=.+", text)]:
        raise UsageError(f"--override-input {wrong[0]!r} is not NAME=URL")
    overrides = dict(text.split("=", 1) for text in override_input)
    nodes = [each.name for each in here.nodes]
    checks = check_files(bundle.assemble(here.cluster).files, nodes, overrides)
    if unchecked := dict.fromkeys(each.check for each in checks if each.result == "skipped"):
        ui.warn(f"not checked here: {', '.join(unchecked)}")
    output.show_checks(here, checks)
