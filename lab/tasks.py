"""The lab's tasks: machines to deploy to, as containers or virtual machines on this machine.

They import the rest of the lab when they run, so that `inv --list` stays fast.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from invoke.collection import Collection
from invoke.exceptions import Exit

from smallkube.cli import conformance as conformance_tests
from smallkube.cli.context import CHANGE, Current, after_dashes, task
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError, UsageError

if TYPE_CHECKING:
    from lab.cluster import Lab

Name = Annotated[str, "name of the lab; several can be up at the same time"]


def _lab(name: str) -> "Lab":
    from lab.cluster import Lab
    from lab.places import Places

    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name):
        raise UsageError(f"{name!r} is not a lab's name", hint="lower-case letters, digits and hyphens")
    return Lab(Places.find(os.environ), name)


@task()
def up(
    _context: object,
    nodes: Annotated[int, "number of machines (1 to 254)"] = 2,
    name: Name = "lab",
    workspace: Annotated[
        str | None, "folder for inventory.yaml, keys/ and nix/ (default: in the lab's own folder)"
    ] = None,
    backend: Annotated[
        str, "container (systemd-nspawn), qemu (virtual machines; make lab-qemu), or nixos (needs Nix and nixpkgs)"
    ] = "container",
    kubernetes: Annotated[bool, "leave out Kubernetes, also where it is built (make lab-kubernetes)"] = True,
    kubernetes_minor: Annotated[str | None, "of a new inventory (default: that of make lab-kubernetes)"] = None,
) -> None:
    """Start a lab's machines and write its workspace.

    Of a lab that is up, starts the machines that are off. The machines of a new
    lab have Kubernetes if it is built.
    """

    if not 1 <= nodes <= 254:
        raise UsageError(f"--nodes {nodes}: a cluster has 1 to 254 nodes")
    folder = Path(workspace).expanduser() if workspace else None
    lab = _lab(name)
    if backend == "nixos":
        from lab import nixos

        place = nixos.up(lab, nodes, folder, ui.message)
    elif backend in ("container", "qemu"):
        with ui.Progress([f"node{index}" for index in range(1, nodes + 1)]) as progress:
            programs, minor = _programs(lab, kubernetes, kubernetes_minor)
            virtual = backend == "qemu"
            place = lab.up(nodes, folder, ui.message, progress.step, programs, minor, virtual=virtual)
    else:
        raise UsageError(f"--backend {backend}: container, qemu or nixos")
    ui.message("The machines are up. What comes next:")
    for line in (
        f"export SMALLKUBE_WORKSPACE={place}",
        "inv keys.scan --yes",
        "inv keys.generate",
        "inv nix.render",
        "inv deploy",
    ):
        ui.message(f"  {line}")


def _programs(lab: "Lab", wanted: bool, minor: str | None) -> tuple[Path | None, str]:
    """What new machines get, and the minor that their inventory names."""
    from lab import kubernetes

    if wanted and minor and not all(each.built(lab.places.cache) for each in kubernetes.sets(minor)):
        raise UsageError(f"Kubernetes {minor} is not built for the lab", hint=f"inv lab.kubernetes --minor {minor}")
    found = kubernetes.built(lab.places.cache) if wanted else None
    if wanted and found is None:
        ui.message("Kubernetes' programs are not built, so its services stay inactive; make lab-kubernetes builds them")
    return found, minor or kubernetes.MINOR


@task()
def kubernetes(
    _context: object, minor: Annotated[str | None, "1.34 to 1.37 (default: the one of make lab-kubernetes)"] = None
) -> None:
    """Build Kubernetes for the lab's machines.

    From the Go modules that lab/go pins, into the user's cache, unless it is
    built already; prints the folder. After an interruption the same command
    resumes.
    """
    from lab.kubernetes import MINOR, sets
    from lab.places import Places
    from smallkube.cli.bar import Bar

    wanted = sets(minor or MINOR)
    with Bar() as bar:
        built = [each.ensure(Places.find(os.environ).cache, bar) for each in wanted]
    ui.result(str(built[-1]))


@task("json")
def conformance(
    here: Current,
    focus: conformance_tests.Focus = None,
    resume: conformance_tests.Resume = False,
    processes: conformance_tests.Processes = conformance_tests.PROCESSES,
    extended: Annotated[bool, "run the other tests of sig-network and sig-storage, with dual-stack Services"] = False,
    operations: Annotated[bool, "run a slice after each rotation, a restore of etcd and a reboot of each node"] = False,
) -> None:
    """Run the conformance tests on three machines.

    Builds Kubernetes, the tests and their images unless they are built, makes
    the lab "conformance", deploys to it, and runs the tests as inv
    cluster.conformance does. A complete run writes docs/conformance.md. The lab
    stays up.
    """
    from lab import conformance_run as run

    if operations and (extended or resume):
        raise UsageError("--operations runs conformance tests, all of them", hint="omit --extended and --resume")
    lab = _lab("conformance")
    cluster = run.bring_up(lab, processes, extended)
    os.environ["SMALLKUBE_WORKSPACE"] = str(cluster.workspace.root)
    cluster.deploy()
    if operations:
        report = run.after_operations(here, cluster, focus)
    else:
        suite = cluster.suite()
        tests, mark, more = run.choice(suite, extended)
        report = conformance_tests.run_suite(here, suite, tests, focus, resume)
        if report.complete:
            run.publish(mark, run.document(report) + more)
            ui.message("docs/conformance.md has this result")
    ui.message("the lab stays up: inv lab.shell node1 --name conformance; inv lab.down --name conformance")
    conformance_tests.show(here, report)


@task()
def addons(_context: object, name: Name = "lab") -> None:
    """Bring the images of the add-ons to a lab.

    Those of cluster.addons by name; real machines pull them. They are built from
    the Go modules that lab/go pins, unless they are built already.
    """
    from lab.addons import PROGRAMS, bring
    from smallkube.cli.bar import Bar

    lab = _lab(name)
    machines = lab.machines
    if not machines:
        raise UsageError(f"there is no lab {name}", hint=f"inv lab.up --name {name}")
    with Bar() as bar:
        built = PROGRAMS.ensure(lab.places.cache, bar)
    for machine in machines:
        bring(machine, built)
        ui.message(f"{machine.name} has the images of the add-ons")


@task()
def down(_context: object, name: Name = "lab", all: Annotated[bool, "all labs of this user"] = False) -> None:
    """Remove a lab's machines and files.

    Also of a lab that crashed. Images and builds stay; inv lab.prune removes
    unused ones.
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


@task(*CHANGE)
def prune(
    here: Current,
    all: Annotated[bool, "also remove the current image and builds; building them again takes minutes"] = False,
) -> None:
    """Remove images and builds that no lab needs.

    From the user's cache: images and builds of Kubernetes that are not current,
    and unfinished builds. Images that a running lab uses stay. Only --all asks
    for confirmation.
    """
    from lab import cache
    from lab.places import Places

    places = Places.find(os.environ)
    if all and not here.dry_run:
        ui.confirm("remove the current image and builds too?", yes=here.yes)
    found = cache.prune(places, current=all, dry_run=here.dry_run)
    gone = [each for each in found if each.outcome in ("removed", "to be removed")]
    failed = [each for each in found if each.outcome == "failed"]
    freed = sum(each.size for each in gone)
    if here.json:
        ui.json_result({"cache": places.cache, "freed": 0 if here.dry_run else freed, "folders": found})
    elif found:
        rows = [(each.name, each.state, _mebibytes(each.size), each.outcome) for each in found]
        ui.table(("folder", "state", "size", "outcome"), rows, title=str(places.cache))
    if not gone and not failed:
        ui.message("nothing to remove")
    else:
        ui.message(f"{'would free' if here.dry_run else 'freed'} {_mebibytes(freed)}")
    if failed:
        raise SmallkubeError("; ".join(each.reason for each in failed))


@task("json")
def status(here: Current, name: Annotated[str | None, "only this lab"] = None) -> None:
    """Show the labs, their machines and disk space.

    An image or build is in use, current (for the next lab), old or unfinished;
    inv lab.prune removes the old and unfinished ones. In JSON sizes are in bytes.
    """
    from lab import cache
    from lab.cluster import all_labs
    from lab.places import Places
    from lab.removal import disk_usage

    places = Places.find(os.environ)
    labs = [_lab(name)] if name else all_labs(places)
    found = [(lab, lab.record, lab.status(), disk_usage(lab.folder)) for lab in labs if lab.record]
    cached = cache.prune(places, dry_run=True)
    if here.json:
        ui.json_result(
            {
                "labs": [
                    {
                        "lab": lab.name,
                        "workspace": record.workspace,
                        "complete": record.complete,
                        "size": size,
                        "nodes": machines,
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


@task()
def shell(
    _context: object,
    node: Annotated[str, "name of the machine, such as node1"],
    name: Name = "lab",
) -> None:
    """Open a root shell on a machine, without SSH.

    A command after -- runs instead of the shell: inv lab.shell node1 -- uptime
    """
    terminal = [f"TERM={os.environ.get('TERM', 'dumb')}"]
    argv = _lab(name).machine(node).argv(after_dashes() or ["bash", "--login"], environment=terminal)
    finished = subprocess.run(argv, check=False)
    if finished.returncode:
        raise Exit(code=finished.returncode)


collection = Collection("lab", up, kubernetes, conformance, addons, down, prune, status, shell)
