"""`keys.scan` against real sshd on loopback: fingerprints shown, stored on consent, a changed key never silently."""

import json
import os
import pty
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def sshd(folder: Path, port: int, key: Path) -> Iterator[None]:
    config = folder / f"sshd-{port}"
    config.write_text(f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {key}\nPidFile none\nUsePAM no\n")
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert server.poll() is None, "sshd did not start"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def cluster(make_cluster: Callable[..., Any], needs: Callable[[str, object, str], None]) -> Any:
    """Two nodes whose sshd would listen on loopback; no host key stored yet."""
    needs("integration", Path(SSHD).exists() and os.geteuid() == 0, "sshd (openssh-server), as root")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    made = make_cluster((1, 2))
    shutil.rmtree(made.workspace.hosts_keys_dir)
    document = yaml.safe_load(made.workspace.inventory_file.read_text())
    for node in document["nodes"].values():
        node["ssh"] = {"host": "127.0.0.1", "port": free_port()}
    made.workspace.inventory_file.write_text(yaml.safe_dump(document))
    return made


def port(cluster: Any, node: str) -> int:
    return int(cluster.inventory.node(node).ssh.port)


def fingerprint(cluster: Any, node: str) -> str:
    argv = ["ssh-keygen", "-lf", str(cluster.private / f"{node}.pub")]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()[1]


def test_new_keys_are_shown_and_stored_on_consent(cluster: Any, tmp_path: Path) -> None:
    with (
        sshd(tmp_path, port(cluster, "node1"), cluster.identity("node1")),
        sshd(tmp_path, port(cluster, "node2"), cluster.identity("node2")),
    ):
        run = cluster.inv("keys.scan")
        assert run.returncode == 2 and "--yes" in run.stderr
        assert fingerprint(cluster, "node1") in run.stdout and fingerprint(cluster, "node2") in run.stdout
        assert not cluster.workspace.hosts_keys_dir.exists()
        cluster.done("keys.scan", "--yes")
        rows = json.loads(cluster.done("keys.scan", "--json"))
    assert [(row["node"], row["state"]) for row in rows] == [("node1", "unchanged"), ("node2", "unchanged")]
    assert sorted(path.name for path in cluster.workspace.hosts_keys_dir.iterdir()) == ["node1.pub", "node2.pub"]
    cluster.done("keys.generate")


def test_a_silent_node_does_not_stop_the_others(cluster: Any, tmp_path: Path) -> None:
    with sshd(tmp_path, port(cluster, "node2"), cluster.identity("node2")):
        run = cluster.inv("keys.scan", "--yes", "--timeout", "2")
    assert run.returncode == 1
    assert "no host key from node1" in run.stderr
    assert (cluster.workspace.hosts_keys_dir / "node2.pub").exists()


def test_a_changed_key_needs_more_than_yes(cluster: Any, tmp_path: Path) -> None:
    where = port(cluster, "node1")
    with sshd(tmp_path, where, cluster.identity("node1")):
        cluster.done("keys.scan", "--node", "node1", "--yes")
    old, stored = fingerprint(cluster, "node1"), cluster.content()
    other = cluster.identity("node2")
    with sshd(tmp_path, where, other):
        run = cluster.inv("keys.scan", "--node", "node1", "--yes")
        assert run.returncode == 1
        assert "THE HOST KEY OF node1 HAS CHANGED" in run.stderr
        assert old in run.stderr and fingerprint(cluster, "node2") in run.stderr
        assert cluster.content() == stored
        run = cluster.inv("keys.scan", "--node", "node1", "--yes", "--replace")
        assert run.returncode == 0 and "inv keys.rekey" in run.stderr
    assert cluster.content() != stored


def test_cloned_machines_are_refused(cluster: Any, tmp_path: Path) -> None:
    with (
        sshd(tmp_path, port(cluster, "node1"), cluster.identity("node1")),
        sshd(tmp_path, port(cluster, "node2"), cluster.identity("node1")),
    ):
        run = cluster.inv("keys.scan", "--yes")
    assert run.returncode == 1 and "same host key as node1" in run.stdout
    assert not (cluster.workspace.hosts_keys_dir / "node2.pub").exists()


def test_something_else_than_ssh_on_the_port(cluster: Any) -> None:
    with socket.create_server(("127.0.0.1", port(cluster, "node1"))):
        run = cluster.inv("keys.scan", "--node", "node1", "--yes", "--timeout", "1")
    assert run.returncode == 1 and "Traceback" not in run.stderr


def packet(payload: bytes) -> bytes:
    """RFC 4253, section 6, before keys are exchanged."""
    padding = 16 - (5 + len(payload)) % 8
    return struct.pack(">IB", 1 + len(payload) + padding, padding) + payload + bytes(padding)


def texts(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def offer(exchange: bytes = b"curve25519-sha256@libssh.org") -> bytes:
    ciphers = (b"aes128-ctr", b"aes128-ctr", b"hmac-sha2-256", b"hmac-sha2-256", b"none", b"none", b"", b"")
    return packet(b"\x14" + bytes(16) + texts(exchange, b"ssh-ed25519", *ciphers) + bytes(5))


def answer(key: bytes, point: bytes) -> bytes:
    return packet(b"\x1f" + texts(texts(b"ssh-ed25519", key), point, texts(b"ssh-ed25519", b"x" * 64)))


HOSTILE = {
    "closed": b"",
    "HTTP": b"HTTP/1.1 400 no\r\n\r\n",
    "banner": b"SSH-2.0-\xff\x1b]52;c;eA==\x07\r\n",
    "endless lines": b"x\r\n" * 100_000,
    "a long line": b"x" * (1 << 20),
    "empty packet": b"SSH-2.0-x\r\n" + packet(b""),
    "huge packet": b"SSH-2.0-x\r\n" + struct.pack(">IB", 0x7FFFFFFF, 4) + bytes(100),
    "names of no encoding": b"SSH-2.0-x\r\n" + offer(b"\xff\xfe"),
    "names cut": b"SSH-2.0-x\r\n" + packet(b"\x14" + bytes(16) + b"\xff\xff\xff\xff"),
    "escapes": b"SSH-2.0-x\r\n" + packet(b"\x01\0\0\0\2" + texts(b"\x1b]52;c;eA==\x07\n[/etc/foo]", b"")),
    "no answer": b"SSH-2.0-x\r\n" + offer() + packet(b"\x1f"),
    "no key": b"SSH-2.0-x\r\n" + offer() + answer(b"x", b"\x09" * 32),
    "no point": b"SSH-2.0-x\r\n" + offer() + answer(b"\1" * 32, b"x"),
    "point zero": b"SSH-2.0-x\r\n" + offer() + answer(b"\1" * 32, bytes(32)),
    "another's key": b"SSH-2.0-x\r\n" + offer() + answer(b"\1" * 32, b"\x09" * 32),
    "no curve": b"SSH-2.0-x\r\n" + offer(b"ecdh-sha2-nistp256") + answer(b"\1" * 32, b"\4" * 65),
}
"""What a machine, or whoever answers in its place, sends instead of SSH."""


@contextmanager
def sending(where: int, data: bytes) -> Iterator[None]:
    """A server that sends ``data`` to each that connects, and no more."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection, suppress(OSError):
                    connection.sendall(data)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1 << 16):
                        pass

    with socket.create_server(("127.0.0.1", where)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_server_that_speaks_no_ssh_is_one_row(name: str, cluster: Any, tmp_path: Path) -> None:
    """Of keys.scan, and of what opens a connection for a command; the other machine is reported as it is."""
    with (
        sending(port(cluster, "node1"), HOSTILE[name]),
        sshd(tmp_path, port(cluster, "node2"), cluster.identity("node2")),
    ):
        run = cluster.inv("keys.scan", "--yes", "--json", "--timeout", "2")
        states = {row["node"]: row["state"] for row in json.loads(run.stdout)}
        assert (run.returncode, states) == (1, {"node1": "failed", "node2": "new"}), run.stderr
        shutil.copy(cluster.private / "node1.pub", cluster.workspace.hosts_keys_dir)
        asked = cluster.inv("nodes.exec", "--node", "node1", "--json", "--", "hostname")
    assert (asked.returncode, [row["outcome"] for row in json.loads(asked.stdout)]) == (1, ["unknown"]), asked.stderr
    assert "Traceback" not in run.stderr + asked.stderr
    assert all(line.isprintable() and len(line) < 1000 for line in (run.stderr + asked.stderr).splitlines())


def typed(cluster: Any, answers: str, *words: str) -> tuple[int, str]:
    """Run a task on a terminal where a person types ``answers``; its status, and all that the terminal showed."""
    ours, terminal = pty.openpty()
    process = subprocess.Popen(
        cluster.command(*words), stdin=terminal, stdout=terminal, stderr=terminal, env=cluster.environment()
    )
    os.close(terminal)
    os.write(ours, answers.encode())
    shown = b""
    with suppress(OSError):  # Linux: EIO once nobody holds the other end
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    return process.wait(), shown.decode()


def test_declining_one_changed_key_still_asks_for_the_others(cluster: Any, tmp_path: Path) -> None:
    def scan(answers: str) -> tuple[int, str]:
        with (
            sshd(tmp_path, port(cluster, "node1"), cluster.identity("node1")),
            sshd(tmp_path, port(cluster, "node2"), cluster.identity("node2")),
        ):
            return (
                typed(cluster, answers, "keys.scan") if answers else (cluster.inv("keys.scan", "--yes").returncode, "")
            )

    assert scan("")[0] == 0
    hosts = cluster.workspace.hosts_keys_dir
    before = {node: (hosts / f"{node}.pub").read_text() for node in ("node1", "node2")}
    for node, key in before.items():
        cluster.new_host_key(node)
        (hosts / f"{node}.pub").write_text(key)
    status, shown = scan("n\ny\n")
    assert status == 2, shown
    assert shown.count("HAS CHANGED") == 2 and "keys/hosts/node1.pub: nothing was changed" in shown
    assert (hosts / "node1.pub").read_text() == before["node1"]
    assert (hosts / "node2.pub").read_text() != before["node2"]
    assert scan("")[0] == 1


@pytest.mark.parametrize("wanted", [[], ["-t", "ed25519"]], ids=["all types", "ed25519"])
def test_what_ssh_keyscan_prints_is_a_host_key(cluster: Any, tmp_path: Path, wanted: list[str]) -> None:
    """As `ssh-keyscan NODE > keys/hosts/NODE.pub 2>&1` stores it: keys.scan then finds nothing to change."""
    other = tmp_path / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", str(other)], check=True, stdin=subprocess.DEVNULL)
    key = Path(f"{cluster.identity('node1')}\nHostKey {other}")
    with sshd(tmp_path, port(cluster, "node1"), key):
        argv = ["ssh-keyscan", "-p", str(port(cluster, "node1")), *wanted, "127.0.0.1"]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
        cluster.workspace.hosts_keys_dir.mkdir()
        (cluster.workspace.hosts_keys_dir / "node1.pub").write_bytes(done.stdout)
        assert b"# 127.0.0.1" in done.stdout and (b"ssh-rsa" in done.stdout) != bool(wanted)
        (row,) = json.loads(cluster.done("keys.scan", "--node", "node1", "--json"))
    assert row["state"] == "unchanged"
