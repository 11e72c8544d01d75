"""Machines to deploy to where there are none: containers on this machine (see lab/)."""

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from smallkube.cli import task
from smallkube.core import ui

if TYPE_CHECKING:
    from pathlib import Path

    from lab.cluster import Lab

NAME = "which lab; several can be up side by side"


def _lab(name: str) -> "Lab":
    import re

    from lab.cluster import Lab
    from lab.places import Places
    from smallkube.core.errors import UsageError

    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name):
        raise UsageError(f"{name!r} is not a lab's name", hint="lower-case letters, digits and hyphens")
    return Lab(Places.find(os.environ), name)


@task(
    help={
        "nodes": "how many machines (1 to 254)",
        "name": NAME,
        "workspace": "folder for inventory.yaml and the rest (default: one of the lab's own)",
        "kubernetes": "leave Kubernetes' programs out, also where they are built (make lab-kubernetes)",
        "backend": "container (systemd-nspawn), or qemu (NixOS virtual machines; needs Nix and nixpkgs)",
    }
)
def up(
    _context: Any,
    nodes: int = 2,
    name: str = "lab",
    workspace: str | None = None,
    backend: str = "container",
    kubernetes: bool = True,
) -> None:
    """Start machines and make a workspace that fits them.

    On a lab that is up: start what is missing. A new lab's machines have Kubernetes when it is built.
    """
    from pathlib import Path

    from smallkube.core.errors import UsageError

    if not 1 <= nodes <= 254:
        raise UsageError(f"--nodes {nodes}: a cluster has 1 to 254 nodes")
    folder = Path(workspace).expanduser() if workspace else None
    lab = _lab(name)
    if backend == "qemu":
        from lab import qemu

        place = qemu.up(lab, nodes, folder, ui.message)
    elif backend == "container":
        with ui.Progress([f"node{index}" for index in range(1, nodes + 1)]) as progress:
            place = lab.up(nodes, folder, ui.message, progress.step, _programs(lab, kubernetes))
    else:
        raise UsageError(f"--backend {backend}: container or qemu")
    ui.message("The machines are up. What comes next:")
    for line in (
        f"export SMALLKUBE_WORKSPACE={place}",
        "inv keys.scan --yes",
        "inv keys.generate",
        "inv nix.render",
        "inv deploy",
    ):
        ui.message(f"  {line}")


def _programs(lab: "Lab", wanted: bool) -> "Path | None":
    from lab import kubernetes

    found = kubernetes.built(lab.places.cache) if wanted else None
    if wanted and found is None:
        ui.message("Kubernetes' programs are not built, so its services stay inactive; make lab-kubernetes builds them")
    return found


@task
def kubernetes(_context: Any) -> None:
    """Build Kubernetes for the lab's machines, unless it is built.

    The programs come from the Go modules that lab/go pins and lie in the
    user's cache; the folder is printed. An interrupted build resumes.
    """
    from lab.kubernetes import ensure
    from lab.places import Places

    with ui.Bar() as bar:
        built = ensure(Places.find(os.environ).cache, bar)
    ui.result(str(built))


@task(help={"name": NAME, "all": "every lab of this user"})
def down(_context: Any, name: str = "lab", all: bool = False) -> None:
    """Take a lab down, also one that crashed: machines and files.

    Images and builds stay; inv lab.prune removes those that no lab needs.
    """
    from lab import cache
    from lab.cluster import all_labs
    from lab.places import Places

    places = Places.find(os.environ)
    labs = all_labs(places) if all else [_lab(name)]
    for lab in labs:
        ui.message(f"the lab {lab.name} is gone" if lab.down() else f"there is no lab {lab.name}")
    if all and (freed := sum(each.size for each in cache.prune(places, dry_run=True) if each.outcome != "kept")):
        ui.message(f"images and builds that no lab needs take {_mebibytes(freed)}; inv lab.prune")


@task(
    help={
        "all": "remove the current image and builds too; making them again takes minutes",
        "dry-run": "only list what would be removed",
        "yes": "with --all: don't ask",
        "json": "as JSON",
    }
)
def prune(_context: Any, all: bool = False, dry_run: bool = False, yes: bool = False, json: bool = False) -> None:
    """Remove images and builds that no lab needs any more.

    From the user's cache: images and builds of Kubernetes that are not current,
    and what interrupted builds left. What a lab that is up uses stays.
    """
    from dataclasses import asdict

    from lab import cache
    from lab.places import Places
    from smallkube.core.errors import SmallkubeError

    places = Places.find(os.environ)
    if all and not dry_run:
        ui.confirm("remove the current image and builds too?", yes=yes)
    found = cache.prune(places, current=all, dry_run=dry_run)
    gone = [each for each in found if each.outcome in ("removed", "to be removed")]
    failed = [each for each in found if each.outcome == "failed"]
    freed = sum(each.size for each in gone)
    if json:
        folders = [asdict(each) for each in found]
        ui.json_result({"cache": str(places.cache), "freed": 0 if dry_run else freed, "folders": folders})
    elif found:
        rows = [(each.name, each.state, _mebibytes(each.size), each.outcome) for each in found]
        ui.table(("folder", "state", "size", "outcome"), rows, title=str(places.cache))
    if not gone and not failed:
        ui.message("nothing to remove")
    else:
        ui.message(f"{'would free' if dry_run else 'freed'} {_mebibytes(freed)}")
    if failed:
        raise SmallkubeError("; ".join(each.reason for each in failed))


@task(help={"name": "only this lab's machines", "json": "as JSON; sizes in bytes"})
def status(_context: Any, name: str | None = None, json: bool = False) -> None:
    """Show the labs, their machines, and the disk space of all.

    An image or build is in use, current (the next lab takes it), old or
    unfinished; inv lab.prune removes the old and unfinished ones.
    """
    from dataclasses import asdict

    from lab import cache
    from lab.cluster import all_labs
    from lab.places import Places
    from lab.removal import disk_usage

    places = Places.find(os.environ)
    labs = [_lab(name)] if name else all_labs(places)
    found = [(lab, lab.record, lab.status(), disk_usage(lab.folder)) for lab in labs if lab.record]
    cached = cache.prune(places, dry_run=True)
    if json:
        ui.json_result(
            {
                "labs": [
                    {
                        "lab": lab.name,
                        "workspace": record.workspace,
                        "complete": record.complete,
                        "size": size,
                        "nodes": [asdict(machine) for machine in machines],
                    }
                    for lab, record, machines, size in found
                    if record
                ],
                "cache": {
                    "folder": str(places.cache),
                    "folders": [{"name": each.name, "state": each.state, "size": each.size} for each in cached],
                },
            }
        )
        return
    rows = [
        (lab.name, machine.node, machine.state, machine.ssh, machine.peer_ip, machine.system.rsplit("-system-", 1)[-1])
        for lab, _, machines, _ in found
        for machine in machines
    ]
    if rows:
        ui.table(("lab", "node", "state", "ssh", "peer_ip", "system"), rows)
    else:
        ui.message("no lab is up; inv lab.up makes one")
    sizes = [
        (f"lab {lab.name}", "up" if any(each.state != "off" for each in machines) else "down", _mebibytes(size))
        for lab, _, machines, size in found
    ]
    sizes += [(each.name, each.state, _mebibytes(each.size)) for each in cached]
    if sizes:
        ui.table(("folder", "state", "size"), sizes)


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


@task(positional=["node"], help={"node": "which machine, such as node1", "name": NAME})
def shell(_context: Any, node: str, name: str = "lab") -> None:
    """Open a root shell on a machine, without SSH.

    What stands after -- runs instead of it: inv lab.shell node1 -- uptime
    """
    from invoke.exceptions import Exit

    # Invoke keeps what follows -- from its tasks.
    command = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    terminal = [f"TERM={os.environ.get('TERM', 'dumb')}"]
    argv = _lab(name).machine(node).argv(command or ["bash", "--login"], environment=terminal)
    finished = subprocess.run(argv, check=False)
    if finished.returncode:
        raise Exit(code=finished.returncode)
