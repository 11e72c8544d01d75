"""Health gates: does what a machine is for still work? Measured before and after an activation, then compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from smallkube.deploy.facts import script, unpushed_script
from smallkube.inventory.models import Inventory
from smallkube.remote.command import Command
from smallkube.remote.host import Host

READY_SECONDS = 60
PATIENT_TRIES = 20
TUNNEL = "tunnel to the primary"


class Result(StrEnum):
    """What a gate said."""

    OK = "ok"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Gate:
    """One gate on one machine; ``own`` ones are the person's ``checks`` from the inventory."""

    name: str
    result: Result
    detail: str = ""
    own: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


def measure(session: Host, inventory: Inventory, *, patient: bool, tunnel: bool = True) -> tuple[Gate, ...]:
    """Ask the machine about everything that can be asked of it alone, about the ``tunnel`` if that is wanted.

    ``patient``: give what was just started the time to come up.
    """
    plan, node = inventory.addressing, session.node
    primary = inventory.primary.index
    addresses = (plan.host6(primary), plan.host4(primary)) if tunnel else ()
    tries = PATIENT_TRIES if patient else 1
    done = session.run(script("gates", node.role, str(tries), *addresses, timeout=300))
    gates = [*parse(done.text)] if done.ok else [Gate("health gates", Result.FAILED, done.last_line)]
    for argv in node.checks:
        done = session.run(Command(argv, timeout=60))
        result = Result.OK if done.ok else Result.FAILED
        gates.append(Gate(" ".join(argv), result, "" if done.ok else done.last_line, own=True))
    return tuple(gates)


def readiness(primary: Host, node_host: str, seconds: int) -> tuple[Gate, ...]:
    """Ask the primary whether ``node_host`` is a Ready member, or becomes one within ``seconds``."""
    done = primary.run(unpushed_script("node-ready", node_host, str(seconds), timeout=seconds + 60))
    return parse(done.text) if done.ok else (Gate("node Ready", Result.NOT_APPLICABLE, done.last_line),)


def parse(text: str) -> tuple[Gate, ...]:
    """The gates that ``gates.sh`` or ``node-ready.sh`` printed; any other line is a failed one."""
    return tuple(_gate(line) for line in text.splitlines())


def _gate(line: str) -> Gate:
    fields = line.split("\t", 2)
    if len(fields) != 3 or fields[1] not in list(Result):
        return Gate("health gates", Result.FAILED, f"unexpected answer {line!r}")
    return Gate(fields[0], Result(fields[1]), fields[2].strip())


def broken(before: Sequence[Gate], after: Sequence[Gate]) -> list[str]:
    """The gates that speak against the new system, in words: failed now, and not already failed before.

    The person's own checks count whatever they said before.
    """
    failed_before = {gate.name for gate in before if gate.result is Result.FAILED}
    return [
        str(gate) for gate in after if gate.result is Result.FAILED and (gate.own or gate.name not in failed_before)
    ]


def unconfirmed(before: Sequence[Gate], after: Sequence[Gate]) -> list[str]:
    """What could not be confirmed, in words: gates that do not apply, and those that had failed before already."""
    spoken = set(broken(before, after))
    words = []
    for gate in after:
        if gate.result is Result.NOT_APPLICABLE:
            words.append(f"{gate.name} ({gate.detail})")
        elif gate.result is Result.FAILED and str(gate) not in spoken:
            words.append(f"{gate} (as before)")
    return words
