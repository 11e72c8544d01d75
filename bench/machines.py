"""How tasks that only read grow with the number of machines: time, processor and memory."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench import fleet
from bench.fleet import Fleet, Usage
from bench.harness import INV, Plan, Row
from smallkube.core.errors import SmallkubeError

FEW = 32
"""With more machines than these each task runs once: it takes long, and its spread is small."""


@dataclass(frozen=True)
class Task:
    """``asks``: whether it connects to every machine. ``faulty``: it ends with exit status 1 there, because a machine
    of the fleet is no node. ``most``: with how many machines it is measured at most."""

    words: str
    asks: bool = True
    faulty: bool = False
    most: int = fleet.MOST

    @property
    def argv(self) -> tuple[str, ...]:
        return (str(INV), *self.words.split())


# The last ones let each machine ping every other one, which is the square of their number on this one machine.
TASKS = (
    Task("inventory.show", asks=False),
    Task("keys.list", asks=False),
    Task("keys.check", asks=False),
    Task("nix.render --check", asks=False),
    Task("nodes.exec -- uptime"),
    Task("nodes.logs kubelet"),
    Task("nodes.gc --dry-run"),
    Task("keys.scan --json"),
    Task("deploy.history"),
    Task("deploy --dry-run"),
    Task("tokens.status", faulty=True),
    Task("deploy.status", faulty=True, most=FEW),
    Task("net.check", faulty=True, most=FEW),
    Task("cluster.status", faulty=True, most=FEW),
)


def rows(plan: Plan) -> Iterator[Row]:
    if fleet.unavailable("machines"):
        return
    with fleet.running(max(plan.hosts)) as machines:
        for task in TASKS[4:5] if plan.quick else TASKS:
            for hosts in (size for size in plan.hosts if size <= task.most):
                taken = [_run(machines, task, hosts) for _ in range(1 if hosts > FEW else min(3, plan.runs))]
                yield fleet.row(task.words, hosts, taken)


def _run(machines: Fleet, task: Task, hosts: int) -> Usage:
    """Raises SmallkubeError when it ends otherwise than it should, or left a machine out."""
    workspace = machines.workspace(hosts)
    before = machines.logins(hosts)
    usage, _ = machines.run(task.argv, machines.environment(workspace), (int(task.faulty),))
    left_out = [
        number for number, (old, new) in enumerate(zip(before, machines.logins(hosts), strict=True)) if old == new
    ]
    if left_out and task.asks and not task.words.startswith("keys.scan"):  # which only reads what sshd says first
        raise SmallkubeError(f"{len(left_out)} of {hosts} machines were not asked", where=task.words)
    return usage
