"""What every task shares: clean errors and exit statuses, and the workspace it works on.

Tasks parse arguments, confirm and show; they import what they need when they run, so that `inv --list` stays fast.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, overload

from invoke.exceptions import Exit
from invoke.parser.argument import Argument
from invoke.tasks import Task
from invoke.tasks import task as invoke_task

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace

if TYPE_CHECKING:
    from smallkube.inventory.models import Inventory

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells give it (128 + SIGINT)."""


@dataclass(frozen=True)
class Current:
    """The workspace a task works on; its inventory is read when first asked for."""

    workspace: Workspace

    @cached_property
    def inventory(self) -> "Inventory":
        from smallkube.inventory.load import load

        return load(self.workspace.inventory_file)


def current() -> Current:
    """The workspace of ``SMALLKUBE_WORKSPACE``, else the repository."""
    return Current(Workspace.find(os.environ))


class _Number(Argument):
    """A flag for a whole number; of anything else Invoke (2.2) makes a traceback."""

    def set_value(self, value: Any, cast: bool = True) -> None:
        try:
            super().set_value(value, cast)
        except ValueError as error:
            raise Exit(f"--{self.name} {value!r}: not a whole number", UsageError.exit_status) from error


class _Task(Task[Any]):
    """Invoke makes the arguments itself, so that their class can only be changed afterwards."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        arguments: list[Argument] = super().get_arguments(ignore_unknown_help)
        for argument in arguments:
            if argument.kind is int:
                argument.__class__ = _Number
        return arguments


Body = TypeVar("Body", bound=Callable[..., Any])


@overload
def task(body: Body, /) -> Body: ...
@overload
def task(**options: Any) -> Callable[[Body], Body]: ...
def task(body: Any = None, /, **options: Any) -> Any:
    """``invoke.task`` whose foreseeable faults are one line on standard error and an exit status, no traceback.

    ``SMALLKUBE_DEBUG=1`` lets the traceback through.
    """
    # Given automatically, the short forms depend on the order of the flags, and run out.
    options.setdefault("auto_shortflags", False)
    if body is not None:
        return invoke_task(klass=_Task, **options)(_guard(body))
    return lambda decorated: invoke_task(klass=_Task, **options)(_guard(decorated))


def _guard(body: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(body)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return body(*args, **kwargs)
        except SmallkubeError as error:
            if os.environ.get("SMALLKUBE_DEBUG"):
                raise
            raise Exit(str(error), error.exit_status) from error
        except KeyboardInterrupt as error:
            raise Exit("interrupted; run the same command again to complete it", INTERRUPTED) from error
        except BrokenPipeError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise Exit(code=1) from error

    return guarded


def words(values: list[str] | str | None) -> tuple[str, ...]:
    """A repeatable flag's values, each of which may hold several separated by commas."""
    given = [values] if isinstance(values, str) else values or []
    return tuple(word for value in given for word in value.split(",") if word)
