"""The tunnel of `cluster.connect` over a real sshd: it carries TLS to the API server's address, comes back when the
connection breaks, and leaves no kubeconfig when it ends."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.remote.tunnel import listen
from tests import leaks
from tests.integration.sshd import SSHD, Bench, Require, Server, free_port
from tests.leaks import KUBECONFIG, Canaries, Trace

HERE = """\
import sys
from smallkube.inventory.addressing import Addressing
Addressing.host6 = lambda *_: "127.0.0.1"
from smallkube.cli.program import main
main(["smallkube", "cluster.connect", "--port", "0"])
"""
"""The command, with this machine's own address for the primary's in the cluster."""


@pytest.fixture
def api(ready: Any, tmp_path: Path) -> Iterator[int]:
    """A server with the API server's certificate that repeats one line; its port."""
    key = tmp_path / "api.key"
    key.write_text(ready.done("keys.show", "apiserver.key"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ready.keys / "apiserver.crt", key)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=repeat, args=(client,), daemon=True).start()

    def repeat(client: socket.socket) -> None:
        try:
            with context.wrap_socket(client, server_side=True) as wrapped:
                wrapped.sendall(wrapped.recv(100))
        except OSError:
            client.close()  # the tunnel's first connection says nothing

    threading.Thread(target=serve, daemon=True).start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


@pytest.fixture
def bench(ready: Any, api: int, tmp_path: Path, needs: Require) -> Iterator[Bench]:
    needs("integration", Path(SSHD).exists(), "sshd (openssh-server)")
    with Server(tmp_path / "server").running() as server:
        made = Bench(server, ready.workspace)
        ssh = {"host": "127.0.0.1", "port": server.port, "user": os.environ.get("USER", "root")}
        document = yaml.safe_load(ready.workspace.inventory_file.read_text())
        document["nodes"]["node1"]["ssh"] = ssh
        document["cluster"]["api"] = {"port": api}
        ready.workspace.inventory_file.write_text(yaml.safe_dump(document))
        shutil.copy(server.host_key.with_suffix(".pub"), made.known)
        made.workspace.state_dir.mkdir(exist_ok=True)
        shutil.copy(server.folder / "user", made.own_key)
        yield made


class Connected:
    """`cluster.connect` as a process; ``said`` are its messages."""

    def __init__(self, bench: Bench, *before: str) -> None:
        environment = {**os.environ, "SMALLKUBE_WORKSPACE": str(bench.workspace.root)}
        argv, pipe = [*before, sys.executable, "-c", HERE], subprocess.PIPE
        self.process = subprocess.Popen(
            argv, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True
        )
        self.said: list[str] = []

    def wait_for(self, text: str) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.said.append(line)
            if text in line:
                return
        pytest.fail(f"ended before it said {text!r}: {self.said}")

    @property
    def kubeconfig(self) -> Path:
        (line,) = [line for line in self.said if "export KUBECONFIG=" in line]
        return Path(line.strip().partition("KUBECONFIG=")[2])

    def ended(self, number: int) -> int:
        os.killpg(self.process.pid, number)
        self.said += (self.process.communicate(timeout=30)[1] or "").splitlines(True)
        return self.process.returncode


@contextmanager
def connecting(bench: Bench, *before: str) -> Iterator[Connected]:
    made = Connected(bench, *before)
    try:
        yield made
    finally:
        with suppress(ProcessLookupError):
            os.killpg(made.process.pid, signal.SIGKILL)
        made.process.communicate()


@pytest.fixture
def connected(bench: Bench) -> Iterator[Connected]:
    with connecting(bench) as made:
        yield made


def talk(file: Path) -> bytes:
    """What the server repeats, by the address, name and certificate in the kubeconfig."""
    cluster = json.loads(file.read_text())["clusters"][0]["cluster"]
    found = re.fullmatch(r"https://(.*):(\d+)", cluster["server"])
    assert found
    trusted = base64.b64decode(cluster["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=trusted)
    with (
        socket.create_connection((found[1], int(found[2])), 20) as wire,
        context.wrap_socket(wire, server_hostname=cluster["tls-server-name"]) as wrapped,
    ):
        wrapped.sendall(b"hello")
        return wrapped.recv(100)


def test_kubectl_reaches_the_api_server_by_what_is_printed(connected: Connected) -> None:
    connected.wait_for("Ctrl-C ends it")
    file = connected.kubeconfig
    assert file.stat().st_mode & 0o777 == 0o600
    assert [talk(file), talk(file)] == [b"hello", b"hello"]
    assert connected.ended(signal.SIGINT) == 0
    assert connected.said[-1] == "disconnected\n"
    assert not file.exists()


def test_the_kubeconfig_alone_has_the_token(bench: Bench, tmp_path: Path, needs: Require) -> None:
    needs("integration", leaks.available(), "strace, with the right to trace")
    canaries = Canaries()
    canaries.read(bench.workspace)
    with connecting(bench, *leaks.STRACE, f"--output={tmp_path}/trace") as made:
        made.wait_for("Ctrl-C ends it")
        talk(made.kubeconfig)
        assert made.ended(signal.SIGINT) == 0
    trace = Trace.read(tmp_path / "trace")
    assert trace.leaks(canaries, (KUBECONFIG,)) == []
    assert {name for _, name in trace.seen(canaries)} == {"kube_token_root"}


def test_the_tunnel_comes_back_when_it_breaks(connected: Connected, bench: Bench) -> None:
    connected.wait_for("Ctrl-C ends it")
    bench.server.kill_sessions()
    connected.wait_for("lost; connecting again")
    connected.wait_for(" again\n")
    assert talk(connected.kubeconfig) == b"hello"
    assert connected.ended(signal.SIGTERM) == 0
    assert not connected.kubeconfig.exists()


def test_what_the_node_does_not_reach_is_one_line(bench: Bench) -> None:
    port = free_port()
    with bench.session() as session, pytest.raises(SmallkubeError) as caught:
        session.open_channel(("127.0.0.1", port))
    assert f"does not connect us to 127.0.0.1:{port}: " in str(caught.value)
    assert "AllowTcpForwarding" in str(caught.value)


def test_a_primary_without_an_api_server_is_one_line(bench: Bench) -> None:
    text = bench.workspace.inventory_file.read_text()
    bench.workspace.inventory_file.write_text(re.sub(r"(api:\s*port:) \d+", rf"\1 {free_port()}", text))
    made = Connected(bench)
    output, errors = made.process.communicate(timeout=60)
    assert (made.process.returncode, output) == (1, "")
    assert len(errors.splitlines()) == 1 and "does not connect us to 127.0.0.1" in errors
    assert not [*bench.workspace.state_dir.glob("kubeconfig*")]


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="in use; give another"):
        listen(taken.getsockname()[1])
