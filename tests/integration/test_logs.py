"""Following a journal over real SSH connections ends on the machines when it is interrupted here."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from smallkube.core import polling
from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import Workspace
from smallkube.inventory.models import Node
from smallkube.operations import logs
from smallkube.remote import journal
from smallkube.remote.host import Command
from smallkube.remote.ssh import connector
from tests.integration.sshd import SSHD, Bench, Require, Server

JOURNAL = 'sleep 1000 & printf "%s\\n" $$ $! >"$1/$$"; echo line; wait'


@pytest.fixture
def bench(tmp_path: Path, needs: Require, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    needs("integration", Path(SSHD).exists(), "sshd (openssh-server)")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with Server(tmp_path / "server").running() as server:
        made = Bench(server, Workspace(tmp_path))
        made.workspace.hosts_keys_dir.mkdir(parents=True)
        made.workspace.state_dir.mkdir()
        public = server.host_key.with_suffix(".pub").read_text()
        for name in ("node1", "node2"):
            (made.workspace.hosts_keys_dir / f"{name}.pub").write_text(public)
        made.own_key.write_bytes((server.folder / "user").read_bytes())
        yield made


@pytest.mark.parametrize("end", ["Ctrl-C", "a reader that has gone"])
def test_following_ends_everywhere(end: str, bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also what is started on the machines."""
    pids = tmp_path / "pids"
    pids.mkdir()
    nodes = [bench.node(), Node(name="node2", index=2, peer_ip="192.168.0.2", ssh=bench.node().ssh)]

    def command(*_: object, **__: object) -> Command:
        return Command(("sh", "-c", JOURNAL, "sh", str(pids)))

    seen: list[str] = []

    def show(node: str, line: str) -> None:
        seen.append(node)
        if len(seen) == len(nodes):
            if end != "Ctrl-C":
                raise BrokenPipeError
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(journal, "command", command)
    stop, lost = threading.Event(), list[SmallkubeError]()
    outcomes = logs.follow(nodes, connector(bench.workspace), logs.Wanted("kubelet", 10), show, stop, lost.append)
    assert stop.is_set()
    assert sorted(seen) == ["node1", "node2"] and len([*pids.iterdir()]) == 2
    assert all(outcome.error for outcome in outcomes)

    def running() -> list[str]:
        found = [pid for file in pids.iterdir() for pid in file.read_text().split()]
        return [pid for pid in found if Path(f"/proc/{pid}/stat").exists() and " Z " not in _stat(pid)]

    polling.wait_until(running, 20, "still running", interval=0.1)


def _stat(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return " Z "
