"""Long operations as lists of steps: what is printed is what runs, and what was interrupted resumes where keys/ says.

A step may be run again. Only a step that changes keys/ can say that it is done, by what is in keys/ then: asking the
machines would race, and could not tell an operation that has ended from one that never began. Under way, the same
command runs the steps after the last one that is done.
"""

from collections.abc import Callable
from dataclasses import dataclass

from smallkube.core.errors import UsageError
from smallkube.secrets.store import Keys


@dataclass(frozen=True)
class Step:
    """``title`` is imperative. ``done``: whether keys/ is as this step leaves it; None where it changes none."""

    title: str
    run: Callable[[], object]
    done: Callable[[Keys], bool] | None = None


@dataclass(frozen=True)
class Operation:
    """``name`` stands before each title in the progress; ``under_way``: by keys/, it was begun and has not ended.

    ``has_primary``: whether a primary can be asked, before it begins and afterwards, how long its API server was down.
    """

    name: str
    steps: tuple[Step, ...]
    under_way: Callable[[Keys], bool] = lambda _: False
    has_primary: bool = True

    def remaining(self, keys: Keys) -> tuple[Step, ...]:
        """The steps that are still to be run, all of them where none is under way."""
        if not self.under_way(keys):
            return self.steps
        last = max((number for number, step in enumerate(self.steps) if step.done and step.done(keys)), default=-1)
        return self.steps[last + 1 :]

    def titles(self, keys: Keys) -> tuple[str, ...]:
        """What ``execute`` will do now."""
        return tuple(step.title for step in self.remaining(keys))


def not_abortable(*, retired: bool) -> UsageError:
    """Why --abort is refused: nothing is under way, or the other version is ``retired`` already."""
    if retired:
        hint = "to complete the rotation, run the same command without --abort"
        return UsageError("no rotation that can be aborted is under way: the other version is retired", hint=hint)
    return UsageError("no rotation that can be aborted is under way")


def execute(operation: Operation, keys: Keys, on_step: Callable[[str], object]) -> None:
    """Run what remains; ``on_step`` is told each title as its step begins.

    Raises SmallkubeError at a step that failed: the same operation resumes there.
    """
    for step in operation.remaining(keys):
        on_step(step.title)
        step.run()
