"""Runs a command on a virtual machine through one of its serial ports: agent.py FOLDER WORD...

A program of its own, so that it can stand wherever a command line can. FOLDER has the other ends of the ports
(``agent-N.sock``, by QEMU). Standard input, output, error and the exit status are the command's (see
lab/node/agent.py); 255 when the machine ended before it.
"""

import base64
import fcntl
import json
import os
import secrets
import socket
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

CHUNK = 32768
LOST = 255


@contextmanager
def port(folder: Path) -> Iterator[socket.socket]:
    """A port that no other command has, connected; waits for one."""
    paths = sorted(folder.glob("agent-*.sock"))
    while True:
        for path in paths:
            with path.with_suffix(".lock").open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(str(path))
                    yield connection
                    return
        time.sleep(0.05)


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Every key goes to the machine while the block runs."""
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def run(folder: Path, words: list[str]) -> int:
    """Run the command; returns its exit status."""
    token = secrets.token_hex(8)
    with ExitStack() as stack:
        connection = stack.enter_context(port(folder))
        size = None
        if os.isatty(0) and os.isatty(1):
            size = termios.tcgetwinsize(0)
            stack.enter_context(raw_terminal())

        def send(**message: Any) -> None:
            connection.sendall(json.dumps({"token": token, **message}).encode() + b"\n")

        def feed() -> None:
            with suppress(OSError):
                while data := os.read(0, CHUNK):
                    send(**{"in": base64.b64encode(data).decode()})
                send(**{"in": ""})

        # Whatever a killed predecessor left half sent ends here.
        connection.sendall(b"\n")
        send(argv=words, tty=size)
        threading.Thread(target=feed, daemon=True).start()
        with connection.makefile("rb") as answers:
            return _pass_on(answers, token)


def _pass_on(answers: Any, token: str) -> int:
    begun = False
    for line in answers:
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if message.get("hello") and begun:
            break
        if message.get("token") != token:
            continue
        begun = True
        for name, descriptor in (("out", 1), ("err", 2)):
            data = base64.b64decode(message.get(name, ""))
            while data:
                data = data[os.write(descriptor, data) :]
        if "exit" in message:
            return int(message["exit"])
    sys.stderr.write("the machine ended before the command\n")
    return LOST


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
