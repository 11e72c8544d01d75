"""Proves with etcd and systemd's proxy that the port of metrics shows these and no key, and is no abstract socket."""

import http.client
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smallkube.core.polling import wait_until
from tests.integration.etcd import Etcd, programs

pytestmark = pytest.mark.integration

Needs = Callable[[str, object, str], None]
ACTIVATE, PROXY = Path("/usr/bin/systemd-socket-activate"), Path("/usr/lib/systemd/systemd-socket-proxyd")
RANGE = '{"key": "AA==", "range_end": "AA=="}'


class WithMetrics(Etcd):
    """As nix/modules/etcd.nix starts it with kube.monitoring."""

    def argv(self, data: str) -> list[str]:
        return [*super().argv(data), "--listen-metrics-urls", "unix://metrics"]


@pytest.fixture
def etcd(needs: Needs, tmp_path: Path) -> Iterator[Etcd]:
    found = programs("3.6")
    needs("integration", found, "etcd 3.6 with etcdctl and etcdutl (make lab-kubernetes)")
    assert found
    with WithMetrics(tmp_path, found).running() as running:
        yield running


@pytest.fixture
def port(etcd: Etcd, needs: Needs) -> Iterator[int]:
    """The port of a proxy that systemd starts with the first connection, as nix/modules/monitoring.nix has it."""
    needs("integration", ACTIVATE.exists() and PROXY.exists(), "systemd-socket-activate and systemd-socket-proxyd")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    argv: list[str | Path] = [ACTIVATE, "--listen", f"127.0.0.1:{number}", PROXY, etcd.folder / "metrics"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            assert "Listening on" in running.stderr.readline()
            yield number
        finally:
            running.terminate()


def ask(port: int, method: str, path: str, body: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body)
    reply = connection.getresponse()
    return reply.status, reply.read().decode()


def test_the_port_shows_metrics_and_no_key(etcd: Etcd, port: int) -> None:
    etcd.put({"/registry/secrets/default/one": b"value"})
    status, text = ask(port, "GET", "/metrics")
    assert status == 200 and "\netcd_server_has_leader 1\n" in text and "\netcd_server_quota_backend_bytes " in text
    assert etcd.call("kv/range", {"key": "AA==", "range_end": "AA=="})["count"] == "1"  # the other socket shows keys
    assert ask(port, "POST", "/v3/kv/range", RANGE)[0] == 404


def test_the_port_answers_again_after_etcd_restarted(etcd: Etcd, port: int) -> None:
    assert ask(port, "GET", "/metrics")[0] == 200
    etcd.stop()
    etcd.start()
    wait_until(lambda: [] if ask(port, "GET", "/metrics")[0] == 200 else ["no answer"], 10, "metrics")


def test_no_socket_of_it_is_abstract(etcd: Etcd) -> None:
    """systemd-socket-proxyd needs a path; and an abstract socket is open to every local process."""
    lines = Path(f"/proc/{etcd.process.pid}/net/unix").read_text().splitlines()
    names = {line.split()[-1] for line in lines}
    assert "metrics" in names and not {name for name in names if name.startswith(("@metrics", "@/metrics"))}
