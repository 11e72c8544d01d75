"""A host that exists only in memory, for tests of what runs commands."""

from collections.abc import Callable

from smallkube.inventory.models import Node
from smallkube.remote.host import Command, Host, Result, Streams


class FakeHost(Host):
    """Answers each command by ``answer``, which may raise SmallkubeError, and keeps them all in ``commands``."""

    def __init__(self, node: Node, answer: Callable[[Command], Result]) -> None:
        super().__init__(node, f"{node.name} (fake)")
        self.answer = answer
        self.commands: list[Command] = []

    def _run(self, streams: Streams) -> int:
        self.commands.append(streams.command)
        for _ in streams.stdin():
            pass
        result = self.answer(streams.command)
        streams.stdout(result.stdout)
        streams.stderr(result.stderr.encode())
        return result.status


def reply(text: str = "", status: int = 0, stderr: str = "") -> Result:
    """A command's result with this standard output."""
    return Result(status, text.encode(), stderr)
