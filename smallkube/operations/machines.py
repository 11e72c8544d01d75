"""Asking machines: by scripts of ours, or any command to many."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from smallkube.core.errors import SmallkubeError
from smallkube.remote.fleet import Outcome
from smallkube.remote.host import Result
from smallkube.remote.scripts import Scripts

SCRIPTS = Scripts(Path(__file__).with_name("scripts"))


def as_json(outcome: Outcome[Result]) -> dict[str, Any]:
    """One node's answer; ``status`` is None when the command's end is not known. Output is decoded as UTF-8."""
    answer = outcome.value
    return {
        "node": outcome.node.name,
        "outcome": "unknown" if answer is None else "ok" if answer.ok else "failed",
        "status": answer.status if answer else None,
        "seconds": round(outcome.seconds, 2),
        "stdout": answer.stdout.decode(errors="replace") if answer else "",
        "stderr": answer.stderr if answer else "",
        "reason": str(outcome.error) if outcome.error else "",
    }


def faults(outcomes: Sequence[Outcome[Result]]) -> Iterator[SmallkubeError]:
    """What went wrong, a line for each node concerned."""
    for outcome in outcomes:
        if outcome.error:
            yield outcome.error
        elif outcome.value and not outcome.value.ok:
            yield SmallkubeError(f"exit status {outcome.value.status}", where=outcome.node.name)
