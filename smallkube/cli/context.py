"""What every task shares: its workspace, the selection of nodes, one-line errors, exit statuses, the log of commands.

Tasks import what they need when they run, so that `inv --list` stays fast.
"""

import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.parser.argument import Argument
from invoke.tasks import Task
from invoke.tasks import task as invoke_task

from smallkube.cli.arguments import complete
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError, UsageError, listed, of_os
from smallkube.core.workspace import Workspace

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from smallkube.inventory.cluster import Cluster
    from smallkube.inventory.models import Inventory, Node
    from smallkube.remote.fleet import Outcome
    from smallkube.remote.host import Host
    from smallkube.remote.pool import Pool

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Limits:
    """The least and the greatest value of a flag that is a number."""

    least: int
    most: int = sys.maxsize


Seconds = Annotated[int, Limits(1)]
"""A number of seconds, as the type of a flag."""

SELECTION = {
    "node": "only these nodes (repeatable, or separated by commas)",
    "role": "only this role: primary | worker",
    "tag": "only nodes with this tag",
}
CHANGE = {
    "dry-run": "print what would be done and change nothing",
    "yes": "do not ask for confirmation",
    "json": "print JSON",
}
COMMON = {
    **SELECTION,
    **CHANGE,
    "local": "this machine is the primary: no SSH to it",
    "verbose": "show each command that is run",
    "wide": "show every column of a table in full, however wide the terminal is",
}
"""Flags that many tasks have, and their help; ``Current`` has their values."""


@dataclass(frozen=True)
class Current:
    """What a task works on: its workspace is found, and the inventory read, when first asked for."""

    node: Sequence[str] = ()
    role: Sequence[str] = ()
    tag: Sequence[str] = ()
    dry_run: bool = False
    yes: bool = False
    json: bool = False
    local: bool = False
    verbose: bool = False
    wide: bool = False

    @cached_property
    def workspace(self) -> Workspace:
        """That of ``SMALLKUBE_WORKSPACE``, else the repository. Raises UsageError when it does not exist."""
        return Workspace.find(os.environ)

    @cached_property
    def inventory(self) -> "Inventory":
        from smallkube.inventory.load import load

        return load(self.workspace.inventory_file)

    @cached_property
    def cluster(self) -> "Cluster":
        from smallkube.inventory.cluster import Cluster

        return Cluster(self.workspace, self.inventory)

    @cached_property
    def pool(self) -> "Pool":
        """The connections of this task, which are closed when it ends."""
        from smallkube.remote.pool import Pool

        return Pool(self._connect)

    def _connect(self, node: "Node") -> "Host":
        if self.local and node.role == "primary":
            from smallkube.remote.local import LocalHost

            return LocalHost(node)
        from smallkube.remote.ssh import SshHost

        return SshHost(self.workspace, node)

    def connect(self, node: "Node") -> "AbstractContextManager[Host]":
        """A connection to ``node`` while the block runs."""
        return self.pool.connect(node)

    def ask(self, nodes: "Sequence[Node]", question: "Callable[[Host], Answer]") -> "tuple[Outcome[Answer], ...]":
        """What each of ``nodes`` answers, asked in parallel."""
        from smallkube.remote import fleet

        return fleet.ask(nodes, self.connect, question)

    @property
    def nodes(self) -> "tuple[Node, ...]":
        """The nodes that the flags select; all of them without a flag. Raises UsageError for an unknown one."""
        return self.inventory.select(words(self.node), words(self.role), words(self.tag))


@contextmanager
def changing(here: Current) -> Iterator[tuple[str, ...]]:
    """``transaction.changing_keys``, reporting what it had to complete; a dry run completes nothing, and is refused."""
    from smallkube.secrets.transaction import changing_keys, refuse_unfinished

    if here.dry_run:
        refuse_unfinished(here.workspace)
        yield ()
        return
    with changing_keys(here.cluster.workspace) as completed:
        if completed:
            ui.message(f"completed an interrupted change of keys: {listed(completed)}")
        yield completed


def words(values: Sequence[str]) -> tuple[str, ...]:
    """A repeatable flag's values, each of which may hold several separated by commas."""
    return tuple(word for value in values for word in value.split(",") if word)


def after_dashes() -> Sequence[str]:
    """What follows ``--``, word by word: Invoke (2.2) has it only joined by blanks, and not where a task could see."""
    return sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else ()


class _Task(Task[Any]):
    common: Sequence[str] = ()

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        texts = dict(self.help)
        arguments: list[Argument] = super().get_arguments(ignore_unknown_help)
        self.help = texts  # Invoke (2.2) takes each out
        for name in self.common:
            kind = list if name in SELECTION else bool
            attribute = name.replace("-", "_") if "-" in name else None
            arguments.append(Argument(name, kind=kind, default=kind(), help=COMMON[name], attr_name=attribute))
        for argument in arguments:
            complete(argument)
        return arguments


def task(*common: str) -> Callable[[Callable[..., Any]], Task[Any]]:
    """A task with the log of commands, and whose foreseeable faults are one line and an exit status.

    It has these of the ``COMMON`` flags and --verbose, and one for each parameter but the first, which is the
    ``Current``: ``Annotated[type, "its help"]``, of which a list is repeatable. ``SMALLKUBE_DEBUG=1`` lets the
    traceback through.
    """

    def decorate(body: Callable[..., Any]) -> Task[Any]:
        _, *flags = inspect.signature(body).parameters.values()
        made: _Task = invoke_task(
            klass=_Task,
            name=body.__name__.rstrip("_"),
            help={flag.name: flag.annotation.__metadata__[-1] for flag in flags},
            iterable=[flag.name for flag in flags if flag.annotation.__origin__ == list[str]],
            auto_shortflags=False,  # they would depend on the order of the flags, and run out
        )(_guard(body))
        made.common = (*common, "verbose")
        return made

    return decorate


def _guard(body: Callable[..., Any]) -> Callable[..., Any]:
    """``body`` with its errors as exit statuses, and with a ``Current`` for Invoke's context."""
    parameters = inspect.signature(body).parameters

    @functools.wraps(body)
    def guarded(context: Context, /, **values: Any) -> Any:
        _refuse_invoke_flags(context)
        here = Current(**{name: values.pop(name) for name in [*values] if name not in parameters})
        with _logged(here.verbose) as log:
            try:
                _check_numbers(parameters, values)
                result = body(here, **values)
                ui.flush()
                return result
            except (SmallkubeError, OSError) as error:
                if os.environ.get("SMALLKUBE_DEBUG"):
                    raise
                _give_up_output()
                if isinstance(error, BrokenPipeError):
                    raise Exit(code=1) from error
                fault = of_os(error) if isinstance(error, OSError) else error
                named = log() if fault.exit_status == SmallkubeError.exit_status else ""
                raise Exit(f"{fault}{named}", fault.exit_status) from error
            except KeyboardInterrupt as error:
                code = 128 + signal.SIGINT  # as shells give it
                raise Exit("interrupted; run the same command again to complete it", code) from error
            finally:
                if "pool" in vars(here):
                    here.pool.close()

    return guarded


def _give_up_output() -> None:
    """What can't be printed is dropped; Python would try again when it ends."""
    try:
        ui.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _check_numbers(parameters: Mapping[str, inspect.Parameter], values: Mapping[str, Any]) -> None:
    """Raise UsageError for a number that is beyond its limits."""
    for name, value in values.items():
        for note in parameters[name].annotation.__metadata__:
            if isinstance(note, Limits) and not note.least <= value <= note.most:
                wanted = f"at least {note.least}" if note.most == sys.maxsize else f"from {note.least} to {note.most}"
                raise UsageError(f"--{name.replace('_', '-')} {value}: must be {wanted}")


_INVOKE_FLAGS = {
    ("run", "dry"): "--dry would not keep the task from running: pass --dry-run after the task's name",
    ("run", "echo"): "--echo has no effect: pass --verbose after the task's name",
    ("run", "pty"): "--pty has no effect",
    ("run", "warn"): "--warn-only has no effect",
    ("run", "hide"): "--hide has no effect",
    ("timeouts", "command"): "--command-timeout has no effect: see the task's --help for its own",
}
"""Where Invoke keeps its own flags for commands that are run by ``Context.run``, which no task here does."""


def _refuse_invoke_flags(context: Context) -> None:
    """Raise Exit for flags of Invoke's that it would take silently, and that do nothing."""
    given = context.config._overrides
    for (section, name), text in _INVOKE_FLAGS.items():
        if given.get(section, {}).get(name):
            raise Exit(text, UsageError.exit_status)


@contextmanager
def _logged(verbose: bool) -> Iterator[Callable[[], str]]:
    """Log the task's commands in the workspace, if there is one; yields what an error's line says of the log."""
    from smallkube.core import log

    file = None
    with suppress(UsageError):
        workspace = Workspace.find(os.environ)
        file = workspace.state_dir / "log" if workspace.inventory_file.is_file() else None
    with log.recording(file, shown=verbose) as written:
        yield lambda: f" (log: {workspace.relative(file)})" if file and written() else ""
