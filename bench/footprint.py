"""What the services of an idle cluster use: memory and processor of each, on three machines of the lab, of which two
have the size small.
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from statistics import median

from bench.harness import INV, QUICK, Plan, Row, command
from lab import kubernetes
from lab.cluster import Lab
from lab.places import Places
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import REPOSITORY, Workspace
from smallkube.inventory import edit
from smallkube.inventory.load import load
from smallkube.inventory.models import Inventory
from smallkube.operations import cluster_facts
from smallkube.operations.cluster_facts import Running
from smallkube.remote import fleet
from smallkube.remote.host import Connect
from smallkube.remote.pool import Pool
from smallkube.remote.ssh import connector

STEPS = ("keys.scan --yes", "keys.generate", "nix.render", "deploy", "cluster.smoke")
SMALL = ("node1", "node2")
IDLE, INTERVAL = 600, 60
GOALS = {"primary": (600, 3.0), "worker": (200, 0.7)}
"""Of small ones, in the units of the rows."""
OTHERS: Mapping[str, tuple[str, float, float]] = {
    "primary": ("k3s server with one agent, as documented", 1428, 5),
    "worker": ("k3s agent, as documented", 275, 3),
}
"""docs.k3s.io/reference/resource-profiling: of control groups, with containerd and the packaged components."""
EVERYTHING = "all services"

Samples = Mapping[tuple[str, str], list[float]]
"""Kind of machine, such as "small worker", and service, or EVERYTHING → one value for each machine and interval."""


def rows(plan: Plan) -> Iterator[Row]:
    """MiB and percent of a core. A lab of this name that is up is measured, and stays up."""
    lab = Lab(Places.find(os.environ), "footprint")
    programs = kubernetes.built(lab.places.cache)
    if programs is None or os.geteuid() != 0:
        ui.warn("footprint is not measured: it needs root, and Kubernetes for the lab (make lab-kubernetes)")
        return
    with ExitStack() as stack:
        if not lab.machines:
            stack.callback(lab.down)
        workspace = Workspace(lab.up(3, None, ui.message, lambda *_: None, programs))
        for name in SMALL:
            text = workspace.inventory_file.read_text()
            edit.write(workspace.inventory_file, edit.change_node(text, name, ["size"], "small"))
        for step in STEPS:
            ui.message(f"$ inv {step}")
            environment = {**os.environ, "SMALLKUBE_WORKSPACE": str(workspace.root)}
            command([INV, *step.split()], cwd=REPOSITORY, env=environment)()
        idle, interval = (0, 1) if plan is QUICK else (IDLE, INTERVAL)
        ui.message(f"idle for {idle} s, then measured every {interval} s")
        time.sleep(idle)
        connect = stack.enter_context(Pool(connector(workspace))).connect
        yield from table(plan, *measured(load(workspace.inventory_file), connect, plan.runs, interval))


def measured(inventory: Inventory, connect: Connect, runs: int, interval: float) -> tuple[Samples, Samples, Samples]:
    """Resident memory, of it the anonymous, both in MiB, and percent of a core, of so many intervals."""
    empty = partial(defaultdict[tuple[str, str], list[float]], list)
    found = empty(), empty(), empty()
    before = ask(inventory, connect)
    for _ in range(runs):
        time.sleep(interval)
        after = ask(inventory, connect)
        for node in inventory.nodes:
            machine = f"{node.size} {node.role}"
            sums = [0.0, 0.0, 0.0]
            for service, use in after[node.name].uses.items():
                earlier = before[node.name].uses[service]
                if use.age <= earlier.age:
                    raise SmallkubeError(f"{service} was restarted", where=node.name)
                spent = 100 * (use.processor - earlier.processor) / (use.age - earlier.age)
                values = (use.memory / 1024, use.anonymous / 1024, spent)
                sums = [one + other for one, other in zip(sums, values, strict=True)]
                for samples, value in zip(found, values, strict=True):
                    samples[machine, service].append(value)
            for samples, value in zip(found, sums, strict=True):
                samples[machine, EVERYTHING].append(value)
        before = after
    return found


def ask(inventory: Inventory, connect: Connect) -> dict[str, Running]:
    """Node → what runs there. Raises the error of the first that can't be asked."""
    outcomes = fleet.ask(inventory.nodes, connect, cluster_facts.running)
    for one in outcomes:
        if one.error:
            raise one.error
    return {one.node.name: one.value for one in outcomes if one.value}


def table(plan: Plan, memory: Samples, anonymous: Samples, processor: Samples) -> Iterator[Row]:
    """Memory and processor of each kind of machine: of its services together, then of each alone."""
    for machine, service in sorted(memory, key=lambda key: (key[0], key[1] != EVERYTHING)):
        size, role = machine.split()
        resident = f"MiB resident, of it {median(anonymous[machine, service]):.0f} not of files"
        against, *others = OTHERS[role]
        kinds = ((resident, memory), ("percent of a core", processor))
        for (unit, samples), other, goal in zip(kinds, others, GOALS[role], strict=True):
            values = samples[machine, service]
            row = Row(f"{machine}, {service}: {unit}", median(values), "", None, "", ((min(values), max(values)),))
            if service == EVERYTHING:
                spreads = (*row.spreads, (other, other))
                row = replace(row, against=against, theirs=other, spreads=spreads)
            if service == EVERYTHING and size == "small":
                row = replace(row, goal=f"at most {goal}")
            yield replace(row, runs=plan.runs)
