"""Proves that a command through a virtual machine's port is the command itself, whatever the one before did."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab import agent
from lab.node.agent import Port
from lab.qemu import AGENT


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    """The lab's end of a port; the machine's is what accepts."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "agent-0.sock"))
        listening.listen()
        yield listening


@pytest.fixture
def machine(listening: socket.socket, tmp_path: Path) -> Iterator[Path]:
    """The folder of a machine with one port, on which the real agent serves one connection after another."""

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            connection.setblocking(False)
            threading.Thread(target=Port(connection.detach()).serve, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield tmp_path
    listening.shutdown(socket.SHUT_RDWR)


def run(folder: Path, *words: str, stdin: str = "") -> tuple[int, str, str]:
    argv = [sys.executable, str(AGENT), str(folder), *words]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout, done.stderr


def test_streams_and_status_are_the_commands(machine: Path) -> None:
    assert run(machine, "sh", "-c", "cat; echo err >&2; exit 7", stdin="in") == (7, "in", "err\n")
    text = "x" * 1_000_000
    assert run(machine, "cat", stdin=text) == (0, text, "")
    assert run(machine, "sh", "-c", "kill -9 $$")[0] == 128 + 9
    assert run(machine, "true", stdin=text)[0] == 0


def test_commands_wait_for_a_port(machine: Path) -> None:
    with ExitStack() as stack:
        argv = [sys.executable, str(AGENT), str(machine), "sh", "-c", "echo begun; read -r line"]
        pipe = subprocess.PIPE
        first = stack.enter_context(subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True))
        assert first.stdout and first.stdout.readline() == "begun\n"
        second = stack.enter_context(subprocess.Popen([*argv[:3], "echo", "second"], stdout=pipe, text=True))
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(0.3)
        assert first.stdin
        first.stdin.write("\n")
        first.stdin.flush()
        assert first.wait(10) == 0
        assert second.communicate(timeout=10)[0] == "second\n"


def test_what_was_left_of_another_command_is_ignored(machine: Path) -> None:
    (ours, theirs) = socket.socketpair()
    theirs.setblocking(False)
    port = Port(theirs.detach())
    threading.Thread(target=port.serve, daemon=True).start()
    with ours, ours.makefile("rb") as answers:
        assert json.loads(answers.readline()) == {"hello": True}
        ours.sendall(b'{"token": "a", "argv": ["sleep", "60"], "tty": null}\n{"token": "a", "in": "ab')
        assert json.loads(answers.readline()) == {"token": "a", "begun": True}
        ours.sendall(b'\n{"token": "b", "argv": ["cat"], "tty": null}\n{"token": "a", "in": "AAAA"}\n')
        ours.sendall(b'{"token": "b", "in": "Yg=="}\n{"token": "b", "in": ""}\n')
        found = [json.loads(answers.readline()) for _ in range(4)]
    assert [each for each in found if each["token"] == "b"] == [
        {"token": "b", "begun": True},
        {"token": "b", "out": "Yg=="},
        {"token": "b", "exit": 0},
    ]
    assert {"token": "a", "exit": 128 + 9} in found


def test_a_machine_that_restarts_ends_the_command(listening: socket.socket, tmp_path: Path) -> None:
    argv = [sys.executable, str(AGENT), str(tmp_path), "sleep", "60"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as client:
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as asked:
            request = next(json.loads(line) for line in asked if line.strip())
            for answer in ({"hello": True}, {"token": request["token"], "begun": True}, {"hello": True}):
                connection.sendall(json.dumps(answer).encode() + b"\n")
            assert client.wait(10) == agent.LOST
        assert client.stderr and "the machine ended before the command" in client.stderr.read()


def test_a_terminal_is_one_on_the_machine(machine: Path) -> None:
    main, end = os.openpty()
    argv = [sys.executable, str(AGENT), str(machine), "sh", "-c", "tty && stty size"]
    with subprocess.Popen(argv, stdin=end, stdout=end, stderr=end) as client:
        client.wait(30)
    os.close(end)
    shown = os.read(main, 4096).decode()
    os.close(main)
    assert shown.startswith("/dev/pts/") and shown.splitlines()[1] == "0 0"
