"""A host that exists only in memory: for tests of what runs commands, here and in projects that build on this one."""

from collections.abc import Callable

from smallkube.inventory.models import Node
from smallkube.remote.command import Command, Result, Streams
from smallkube.remote.host import Host


class FakeHost(Host):
    """Answers each command by ``answer``, which may raise SmallkubeError, and keeps them all in ``commands``."""

    def __init__(self, node: Node, answer: Callable[[Command], Result]) -> None:
        super().__init__(node, f"{node.name} (fake)")
        self.answer = answer
        self.commands: list[Command] = []

    def _run(self, command: Command, streams: Streams) -> Result:
        self.commands.append(command)
        if streams.source:
            while streams.source.read(1 << 16):
                pass
        result = self.answer(command)
        streams.on_stderr(result.stderr.encode())
        if streams.on_stdout is None:
            return result
        streams.on_stdout(result.stdout)
        return Result(result.status, b"", result.stderr)


def reply(text: str = "", status: int = 0, stderr: str = "") -> Result:
    """A command's result with this standard output."""
    return Result(status, text.encode(), stderr)
