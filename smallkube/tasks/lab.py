"""Machines to deploy to where there are none: containers on this machine (see lab/)."""

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from smallkube import ui
from smallkube.tasks import task

if TYPE_CHECKING:
    from pathlib import Path

    from lab.cluster import Lab

NAME = "which lab; several can be up side by side"


def _lab(name: str) -> "Lab":
    import re

    from lab.cluster import Lab
    from lab.places import Places
    from smallkube.errors import UsageError

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

    from smallkube.errors import UsageError

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
    """Take a lab down, also one that crashed: machines and files."""
    from lab.cluster import all_labs
    from lab.places import Places

    labs = all_labs(Places.find(os.environ)) if all else [_lab(name)]
    for lab in labs:
        ui.message(f"the lab {lab.name} is gone" if lab.down() else f"there is no lab {lab.name}")


@task(help={"name": "only this lab", "json": "as JSON"})
def status(_context: Any, name: str | None = None, json: bool = False) -> None:
    """Show the labs and their machines."""
    from dataclasses import asdict

    from lab.cluster import all_labs
    from lab.places import Places

    labs = [_lab(name)] if name else all_labs(Places.find(os.environ))
    found = [(lab, lab.record, lab.status()) for lab in labs if lab.record]
    if json:
        ui.json_result(
            [
                {
                    "lab": lab.name,
                    "workspace": record.workspace,
                    "complete": record.complete,
                    "nodes": [asdict(machine) for machine in machines],
                }
                for lab, record, machines in found
                if record
            ]
        )
        return
    rows = [
        (lab.name, machine.node, machine.state, machine.ssh, machine.peer_ip, machine.system.rsplit("-system-", 1)[-1])
        for lab, _, machines in found
        for machine in machines
    ]
    if rows:
        ui.table(("lab", "node", "state", "ssh", "peer_ip", "system"), rows)
    else:
        ui.message("no lab is up; inv lab.up makes one")


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
