"""Long operations as lists of steps: what is printed is what runs, and what was interrupted resumes where keys/ says.

A step may be run again. Only a step that changes keys/ can say that it is done, by what is in keys/ then: asking the
machines would race, and could not tell an operation that has ended from one that never began. Under way, the same
command runs the steps after the last one that is done.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import generate, kinds, rekey, transaction
from smallkube.secrets.age import Master
from smallkube.secrets.policy import Secret
from smallkube.secrets.transaction import Change, Keys, changing_keys, read_keys


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
    """Run what remains; ``on_step`` gets each title as its step begins.

    Raises SmallkubeError at a step that failed: the same operation resumes there.
    """
    for step in operation.remaining(keys):
        on_step(step.title)
        step.run()


def update_keys(cluster: Cluster) -> None:
    """Encrypt every secret to those who may read it now, generate what is missing, and write what is derived.

    Raises SmallkubeError when a secret can't be opened; nothing was changed then.
    """
    with changing_keys(cluster.workspace):
        planned = rekey.plan(cluster)
        if planned.failed:
            file, why = next(iter(planned.failed.items()))
            raise SmallkubeError(why, where=f"keys/{file}", hint="restore it from git")
        rekey.act(cluster, planned)
        generate.act(cluster, generate.plan(cluster))


def in_keys(rows: Iterable[Secret]) -> Callable[[Keys], bool]:
    """A predicate: a file of any of ``rows`` is there."""
    names = {row.file for row in rows}
    return lambda keys: not names.isdisjoint(keys.files)


@dataclass(frozen=True)
class Overlap:
    """Secrets of which two versions are accepted for a while: NAME, which is used, and NAME.old or NAME.new.

    Aborted before the other version is retired, the previous becomes the current one again, with the new as NAME.new.
    ``master`` is None in a dry run.
    """

    cluster: Cluster
    rows: tuple[Secret, ...]
    master: Master | None

    def operation(
        self,
        name: str,
        keys: Keys,
        titles: tuple[str, str],
        both: tuple[Step, ...],
        one: tuple[Step, ...],
        *,
        abort: bool,
    ) -> Operation:
        """``both``: the steps while two versions are accepted, ``one``: when the other is retired.

        ``titles`` are those of the first step, forward and back: a rotation that was aborted stays so.
        Raises UsageError when there is nothing to abort.
        """
        new, old = [row.new for row in self.rows], [row.old for row in self.rows]
        retired = tuple(row.retired for row in self.rows)
        if abort and not in_keys((*new, *old))(keys):
            raise not_abortable(retired=in_keys(retired)(keys))
        if abort or in_keys(new)(keys):
            first = Step(titles[1], self._back, in_keys((*new, *retired)))
        else:
            first = Step(titles[0], self._begin, in_keys((*old, *retired)))
        retire = Step("retire the other version", self._retire, in_keys(retired))
        delete = Step("delete the retired version", lambda: self._change(Change(removed=retired)))
        return Operation(name, (first, *both, retire, *one, delete), in_keys((*new, *old, *retired)))

    @property
    def others(self) -> Mapping[Secret, Secret]:
        """Row → its other version that is accepted now."""
        files = read_keys(self.cluster.workspace).files
        return {row: other for row in self.rows if (other := row.staged_in(files))}

    def open(self, row: Secret) -> bytes:
        """The plaintext of ``row`` or of one of its versions."""
        assert self.master
        return transaction.opened(read_keys(self.cluster.workspace), self.master, row)

    def _begin(self) -> None:
        self._change(Change({row: kinds.make(row.kind, ()) for row in self.rows}, {row.old: row for row in self.rows}))

    def _back(self) -> None:
        files = {row: row.old for row in self.rows} | {row.new: row for row in self.rows}
        self._change(Change({}, files, tuple(row.old for row in self.rows)))

    def _retire(self) -> None:
        others = self.others
        retired = {row.retired: self.open(other) for row, other in others.items()}
        self._change(Change(retired, {}, tuple(others.values())))

    def _change(self, contents: Change) -> None:
        with changing_keys(self.cluster.workspace):
            transaction.apply(self.cluster, contents)
