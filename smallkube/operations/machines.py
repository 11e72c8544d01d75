"""Asking machines: a script of ours on one, the same question to many."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from smallkube.inventory.models import Node
from smallkube.remote import fleet
from smallkube.remote.command import Command
from smallkube.remote.host import Connect, Host

_SCRIPTS = Path(__file__).with_name("scripts")

T = TypeVar("T")


def script(name: str, *arguments: str, stdin: bytes | None = None, timeout: float = 60) -> Command:
    """The command that runs scripts/NAME.sh; ``timeout`` in seconds of silence."""
    argv = ("/bin/sh", "-c", (_SCRIPTS / f"{name}.sh").read_text(), name, *arguments)
    return Command(argv, stdin=stdin, timeout=timeout, title=name)


def answer(host: Host, command: Command) -> Any:
    """What ``command`` prints, which is JSON. Raises SmallkubeError when it fails, or prints something else."""
    text = host.run_checked(command).text
    try:
        return json.loads(text)
    except ValueError as error:
        raise host.error(f"unexpected output from {command.name}") from error


def ask_all(nodes: Sequence[Node], connect: Connect, ask: Callable[[Host], T]) -> tuple[dict[str, T], list[str]]:
    """Node → what it answers, all at once; and "NODE (reason)" for each that could not be asked."""

    def work(node: Node) -> tuple[T]:
        with connect(node) as host:
            return (ask(host),)

    outcomes = fleet.run([nodes], work)
    found = {one.node.name: one.value[0] for one in outcomes if one.value}
    return found, [f"{one.node.name} ({one.error.message})" for one in outcomes if one.error]
