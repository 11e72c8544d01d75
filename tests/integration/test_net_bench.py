"""Proves with the real programs what net.bench's script measures, and that it closes the firewall again."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smallkube.operations.bench import Answer
from smallkube.operations.machines import SCRIPTS
from smallkube.remote.scripts import parse

pytestmark = pytest.mark.integration

Needs = Callable[[str, object, str], None]
TABLE = """
table inet nixos-fw {
  chain input-allow {
    tcp dport 22 accept comment "ssh"
  }
}
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "bench.sh"
    file.write_text(SCRIPTS.text("bench"))
    return file


@pytest.fixture
def port(needs: Needs) -> Iterator[int]:
    """Where zeros are sent, as by the unit that the script makes."""
    programs = ("systemd-socket-activate", "ping", "bash", "dd")
    needs("integration", all(map(shutil.which, programs)), ", ".join(programs))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    argv = ["systemd-socket-activate", "--accept", "--inetd", f"--listen={number}", "/bin/cat", "/dev/zero"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None and "Listening on" in running.stderr.readline()
            yield number
        finally:
            running.terminate()


def run(script: Path, *words: str, inside: tuple[str, ...] = ()) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        [*inside, "/bin/sh", script, *words], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_families_are_measured(script: Path, port: int) -> None:
    text = run(script, "measure", str(port), "1", "tunnel=::1", "direct=127.0.0.1")
    answer = parse(text, Answer, "bench", "here")
    for found in (answer.tunnel, answer.direct):
        assert found.bytes and found.bytes > 1 << 20 and found.seconds and 0.5 < found.seconds < 5
        assert found.milliseconds is not None and found.ticks > 0


def test_where_nothing_listens_throughput_is_null(script: Path, port: int) -> None:
    found: dict[str, Any] = json.loads(run(script, "measure", "1", "1", "direct=127.0.0.1"))["direct"]
    assert (found["bytes"], found["seconds"]) == (None, None)
    assert found["milliseconds"] > 0


def test_the_firewall_is_opened_and_closed_again(script: Path, needs: Needs) -> None:
    needs("integration", os.geteuid() == 0 and shutil.which("nft") and shutil.which("unshare"), "nft, unshare and root")
    steps = (
        f"nft '{TABLE}'; nft list ruleset >before; /bin/sh bench.sh open 5201 10.88.2.1 2001:db8::2; nft list ruleset;"
        "/bin/sh bench.sh shut; /bin/sh bench.sh shut; nft list ruleset | diff before -"
    )
    done = subprocess.run(
        ["unshare", "--net", "sh", "-ec", steps], cwd=script.parent, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    opened = [line.strip() for line in done.stdout.splitlines() if "smallkube-bench" in line]
    assert sorted(opened) == [
        'ip saddr 10.88.2.1 tcp dport 5201 accept comment "smallkube-bench"',
        'ip6 saddr 2001:db8::2 tcp dport 5201 accept comment "smallkube-bench"',
    ]


def test_without_a_firewall_nothing_is_opened(script: Path, needs: Needs) -> None:
    needs("integration", os.geteuid() == 0 and shutil.which("nft") and shutil.which("unshare"), "nft, unshare and root")
    inside = ("unshare", "--net")
    run(script, "open", "5201", "10.88.2.1", inside=inside)
    run(script, "shut", inside=inside)
