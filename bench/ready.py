"""From machines that answer over SSH to a cluster whose nodes are all Ready: ours, and kubeadm's, on three machines.

Each run has three fresh containers of the lab. All have the programs of both, and nothing is downloaded. Ours:
everything from `keys.scan` to the end of `deploy`, over SSH, with keys, tunnel, firewall and CRI-O; the lab's stand-in
for nixos-rebuild makes the machines' systems. kubeadm's: `kubeadm init`, then `kubeadm join` on both others at the same
time, run on the machines without SSH. Done before its clock starts: images imported, CRI-O running, the kubelet's unit,
a bridge for pods (CNI) and routes between the machines, without a tunnel.
"""

import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

from bench.harness import INV, Plan, Row, command
from lab import image, kubeadm, kubernetes
from lab.cluster import Lab
from lab.machine import Machine
from lab.places import Places
from smallkube.cli.bar import Bar
from smallkube.core import polling, ui
from smallkube.core.errors import UsageError
from smallkube.core.workspace import REPOSITORY

STEPS = ("keys.scan --yes", "keys.generate", "nix.render", "deploy")
MACHINES, RUNS = 3, 3
KUBECTL = f"/{kubernetes.PREFIX}/bin/kubectl"
READY = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {end}'
ADMIN = "--kubeconfig=/etc/kubernetes/admin.conf"
USED = (
    "cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2>&- || sed -n 's/^usage_usec \\(.*\\)/\\1000/p' /sys/fs/cgroup/cpu.stat"
)
"""Nanoseconds of processor of a machine, by control groups of either version."""
SECONDS = 600
"""After which nodes that are not Ready have failed."""

Usage = tuple[float, float]
"""Seconds, and processor seconds of the machines and of what was run here."""


def rows(plan: Plan) -> Iterator[Row]:
    """Seconds, then processor seconds, then the seconds of our steps."""
    places = Places.find(os.environ)
    built = kubernetes.built(places.cache)
    if built is None or os.geteuid() != 0:
        ui.warn("ready is not measured: it needs root, and Kubernetes for the lab (make lab-kubernetes)")
        return
    with Bar() as bar:
        programs = kubeadm.PROGRAMS.ensure(places.cache, bar)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        kubeadm.write_images(images, programs, built, image.ensure(places.cache, ui.message))
        taken: list[tuple[Usage, Usage]] = []
        steps: list[list[float]] = []
        for _ in range(min(RUNS, plan.runs)):
            taken.append((run(partial(ours, steps)), run(partial(theirs, programs, images))))
            ui.message(", ".join(f"{seconds:.1f} s, {used:.1f} s of processor" for seconds, used in taken[-1]))
    yield from table(taken, steps)


def run(side: Callable[[Path, Sequence[Machine]], Callable[[], str]]) -> Usage:
    """What one side takes on machines of its own. ``side`` prepares them and returns what is measured."""
    with fresh() as (workspace, machines):
        work = side(workspace, machines)
        before, began = used(machines), time.perf_counter()
        kubeconfig = work()
        await_ready(machines[0], kubeconfig)
        return time.perf_counter() - began, used(machines) - before


def ours(steps: list[list[float]], workspace: Path, _: Sequence[Machine]) -> Callable[[], str]:
    """Adds to ``steps`` the seconds of each of STEPS."""
    environment = {**os.environ, "SMALLKUBE_WORKSPACE": str(workspace)}

    def work() -> str:
        times = [time.perf_counter()]
        for step in STEPS:
            command([INV, *step.split()], cwd=REPOSITORY, env=environment)()
            times.append(time.perf_counter())
        steps.append([after - before for before, after in pairwise(times)])
        return "--kubeconfig="

    return work


def theirs(programs: Path, images: Path, _: Path, machines: Sequence[Machine]) -> Callable[[], str]:
    for machine in machines:
        kubeadm.prepare(machine, programs, images, MACHINES)

    def work() -> str:
        first, *others = machines
        given = kubeadm.init(first)
        with ThreadPoolExecutor(len(others)) as pool:
            list(pool.map(lambda machine: kubeadm.join(machine, *given), others))
        return ADMIN

    return work


@contextmanager
def fresh() -> Iterator[tuple[Path, Sequence[Machine]]]:
    """The workspace and the machines of a new lab, which is taken down at the end."""
    lab = Lab(Places.find(os.environ), "ready")
    if lab.record:
        raise UsageError("there is a lab ready already", hint="inv lab.down --name ready")
    try:
        programs = kubernetes.built(lab.places.cache)
        yield lab.up(MACHINES, None, ui.message, lambda *_: None, programs), lab.machines
    finally:
        lab.down()


def used(machines: Sequence[Machine]) -> float:
    """Processor seconds of the machines, and of what has been run here, on the machines too."""
    there = sum(int(machine.check("sh", "-c", USED)) for machine in machines) / 1e9
    here = resource.getrusage(resource.RUSAGE_CHILDREN)
    return there + here.ru_utime + here.ru_stime


def await_ready(primary: Machine, kubeconfig: str) -> None:
    """Raises SmallkubeError when not all nodes are Ready in time."""
    ask = [KUBECTL, kubeconfig, "get", "nodes", f"--output=jsonpath={READY}"]

    def missing() -> list[str]:
        said = primary.execute(ask)
        found = (said.stdout or said.stderr).strip().splitlines() or ["no nodes"]
        return [] if said.stdout.split() == ["True"] * MACHINES else found[-1:]

    polling.wait_until(missing, SECONDS, "not all nodes are Ready", where=primary.name, interval=0.1)


def table(taken: Sequence[tuple[Usage, Usage]], steps: Sequence[Sequence[float]]) -> Iterator[Row]:
    """Both sides; then of ours each of STEPS."""
    against = f"kubeadm {kubernetes.version()}: init and join, with images and CRI-O there before"
    for number, unit in enumerate(("", ", processor seconds of all of them")):
        sides = [[side[number] for side in each] for each in zip(*taken, strict=True)]
        spreads = tuple((min(side), max(side)) for side in sides)
        paired = median(one / other for one, other in zip(*sides, strict=True))
        medians = [median(side) for side in sides]
        work = f"{MACHINES} containers of the lab to nodes that are Ready{unit}"
        yield Row(work, medians[0], against, medians[1], "", spreads, paired, len(taken))
    for step, each in zip(STEPS, zip(*steps, strict=True), strict=True):
        yield Row(f"of it inv {step}", median(each), "", None, "", ((min(each), max(each)),), runs=len(each))
