"""``smallkube``: the tasks as a program of their own, in whichever workspace the current folder belongs to."""

import difflib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from invoke.exceptions import Exit, ParseError
from invoke.parser.argument import Argument
from invoke.program import Program

from smallkube import __version__
from smallkube.cli.app import needed
from smallkube.cli.arguments import Value
from smallkube.core import ui
from smallkube.core.errors import UsageError

VARIABLE = "SMALLKUBE_WORKSPACE"


class SmallkubeProgram(Program):
    """Invoke's program with a workspace; wrong words are one line and exit status 2, with the nearest right one."""

    def core_args(self) -> list[Argument]:
        """Invoke's own flags, and ``--workspace``."""
        found: list[Argument] = super().core_args()
        for argument in found:
            Value.make(argument)
        return [*found, Argument(name="workspace", help="Workspace to work on; else the one of the current folder.")]

    def parse_core(self, argv: list[str] | None) -> None:
        """Also sets the workspace for the tasks."""
        with self._usage():
            super().parse_core(argv)
        named = self.args.workspace.value or os.environ.get(VARIABLE) or workspace_above(Path.cwd())
        if named:
            os.environ[VARIABLE] = str(named)

    def parse_tasks(self) -> None:
        """Raises Exit with status 2 for a task or flag that there is not."""
        with self._usage():
            super().parse_tasks()

    def parse_cleanup(self) -> None:
        """Also completes the values of flags."""
        if not self.args.complete.value:
            with self._usage():
                super().parse_cleanup()
            return
        from smallkube.cli.completion import values

        if words := values(self.core.remainder):
            ui.result("\n".join(words))
            raise Exit
        try:
            super().parse_cleanup()
        except (Exit, ParseError) as end:  # an error's text would be in the way of what is being typed
            raise Exit from end

    @contextmanager
    def _usage(self) -> Iterator[None]:
        try:
            yield
        except ParseError as error:
            raise Exit(self._explained(error), UsageError.exit_status) from error

    def _explained(self, error: ParseError) -> str:
        context = error.context
        if found := re.search(r"Flag <\w+: ([\w-]+)", str(error)):
            return f"--{found[1]}: no value given"
        found = re.fullmatch(r"No idea what '(.*)' is!", str(error))
        if not found:
            return str(error)
        word = found[1]
        if word.startswith("-") and context and context.name:
            return _unknown(f"{context.name} has no flag {word}", word, [*context.flags, *context.inverse_flags])
        tasks = [name for names in self.collection.task_names.items() for name in (names[0], *names[1])]
        return _unknown(f"no task {word!r}", word, tasks, "smallkube --list shows all")


def _unknown(text: str, word: str, known: list[str], hint: str = "") -> str:
    nearest = difflib.get_close_matches(word, known, n=1)
    return "; ".join(filter(None, [text, f"did you mean {nearest[0]}?" if nearest else hint]))


def workspace_above(folder: Path) -> Path | None:
    """The nearest of ``folder`` and those above it that has an inventory."""
    return next((each for each in (folder, *folder.parents) if (each / "inventory.yaml").is_file()), None)


def main(argv: list[str] | None = None) -> Any:
    """The command's entry point."""
    tasks = needed(" ".join(argv or sys.argv[1:]))
    SmallkubeProgram(name="smallkube", binary="smallkube", namespace=tasks, version=__version__).run(argv)
