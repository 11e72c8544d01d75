"""Proves with OpenSSH's own client, agent and server: the configuration is read as ssh reads it, jump hosts are passed
as ssh passes them, the keys are offered that ssh would offer, and each fault names the right machine.
"""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.remote import fleet, identities, openssh, scan
from smallkube.remote.host import Command
from smallkube.remote.openssh import Route
from smallkube.remote.ssh import JUMPS, connector
from tests.integration.sshd import SSHD, Bench, Require, Server, make_key

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Client:
    """The server of node1, and the configuration that ssh reads."""

    bench: Bench
    folder: Path

    @property
    def user_key(self) -> Path:
        return self.bench.server.folder / "user"

    def configure(self, text: str) -> None:
        text += f"\nMatch all\n  UserKnownHostsFile {self.folder}/known_hosts\n"
        (self.folder / "config").write_bytes(text.encode("latin-1"))

    def know(self, *servers: Server, before: str = "") -> None:
        lines = [f"[127.0.0.1]:{server.port} {server.host_key.with_suffix('.pub').read_text()}" for server in servers]
        (self.folder / "known_hosts").write_bytes((before + "".join(lines)).encode("latin-1"))

    def answers(self, host: str = "machine") -> bool:
        with self.bench.session(host=host) as session:
            return session.run(Command(("echo", "here"))).text == "here"

    def refused(self, host: str = "machine") -> SmallkubeError:
        with pytest.raises(SmallkubeError) as caught, self.bench.session(host=host):
            pass
        assert "\n" not in str(caught.value)
        return caught.value


@pytest.fixture
def client(tmp_path: Path, needs: Require, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """ssh finds its files by the user database, not by HOME: the one on PATH is told where they are."""
    ssh = shutil.which("ssh")
    needs("integration", Path(SSHD).exists() and ssh, "sshd and ssh (openssh-server, openssh-client)")
    folder, programs = tmp_path / "ssh", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    (programs / "ssh").write_text(f'#!/bin/sh\nexec {ssh} -F {folder}/config "$@"\n')
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with Server(tmp_path / "server").running() as server:
        bench = Bench(server, Workspace(tmp_path))
        bench.workspace.hosts_keys_dir.mkdir(parents=True)
        bench.known.write_text(server.host_key.with_suffix(".pub").read_text())
        yield Client(bench, folder)


HERE = "Host machine\n  HostName 127.0.0.1\n  IdentityFile {key}\n"
READ_AS_SSH_DOES = {
    "a file that is included": "Include {folder}/more\n",
    "criteria that do not match": "Match localuser nobody-of-this-name\n  HostName 192.0.2.1\n" + HERE,
    "no jump host": "Host mach*\n  ProxyJump none\n" + HERE + "Host *\n  ProxyJump nowhere.invalid\n",
    "no program between": "Host mach*\n  ProxyCommand none\n" + HERE + "Host *\n  ProxyCommand false\n",
    "key files that are missing": HERE + "  IdentityFile {folder}/missing\n",
    "a key file that is no key": HERE.replace("  Id", "  IdentityFile {folder}/more\n  Id"),
    "a key named by its public half": HERE.replace("{key}", "{key}.pub"),
    "a name with a token": "Host machine\n  HostName 127.0.0.1\n  IdentityFile {folder}/key-of-%r-at-%h\n",
    "comments in Latin-1": "# für alle\n" + HERE,
    "a program between": HERE + "  ProxyCommand {netcat} %h %p\n",
}


@pytest.mark.parametrize("kind", READ_AS_SSH_DOES)
def test_the_configuration_is_read_as_ssh_reads_it(client: Client, kind: str) -> None:
    (client.folder / "more").write_text(HERE.format(key=client.user_key))
    shutil.copy(client.user_key, client.folder / f"key-of-{client.bench.node().ssh.user}-at-127.0.0.1")
    netcat = client.folder / "netcat"
    netcat.write_text(NETCAT)
    netcat.chmod(0o755)
    client.configure(READ_AS_SSH_DOES[kind].format(folder=client.folder, key=client.user_key, netcat=netcat))
    assert client.answers()


NETCAT = """#!/usr/bin/env python3
import os, socket, sys, threading
wire = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def forward():
    while data := os.read(0, 65536):
        wire.sendall(data)
    wire.shutdown(socket.SHUT_WR)
threading.Thread(target=forward, daemon=True).start()
while data := wire.recv(65536):
    os.write(1, data)
"""


@pytest.mark.parametrize("text", ["\ufeffHost machine\n", "Host machine\n  NoSuchOption yes\n"])
def test_a_configuration_that_ssh_refuses_is_wrong_usage(client: Client, text: str) -> None:
    (client.folder / "config").write_text(text)
    with pytest.raises(UsageError, match=r"machine: ssh can't read its configuration: .*config.* line \d"):
        client.bench.session(host="machine")


def test_without_ssh_the_package_is_named(client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="ssh is not installed; apt-get install openssh-client"):
        client.bench.session(host="machine")


def test_the_time_limit_for_connecting_is_the_configured_one(client: Client) -> None:
    client.configure("Host slow\n  ConnectTimeout 33\n")
    assert [Route.to(client.bench.node(host=name)).seconds for name in ("slow", "other")] == [33, 10]


@pytest.mark.parametrize(("name", "seconds"), [("slow", 33), ("other", openssh.SILENT_SECONDS)])
def test_a_silent_machine_is_soon_given_up(
    client: Client, monkeypatch: pytest.MonkeyPatch, name: str, seconds: float
) -> None:
    def silent(_address: object, timeout: float, _source: object) -> None:
        raise TimeoutError(f"after {timeout} s")

    client.configure("Host slow\n  ConnectTimeout 33\n")
    monkeypatch.setattr(socket, "create_connection", silent)
    with pytest.raises(SmallkubeError, match=rf"^node1 \(.*@{name}:.*\): can't be reached: after {seconds} s"):
        client.bench.session(host=name).open()


@contextmanager
def agent(*keys: Path) -> Iterator[str]:
    """ssh-agent with these keys; its socket."""
    folder = keys[0].parent
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(folder / "agent")], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()  # it listens
        environment = {**os.environ, "SSH_AUTH_SOCK": str(folder / "agent")}
        subprocess.run(["ssh-add", "-q", *map(str, keys)], env=environment, check=True)
        yield str(folder / "agent")
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def full(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """An agent with more keys than the server lets try (MaxAuthTries is 6), the right one last."""
    strangers = [make_key(tmp_path / "agent" / f"stranger{number}") for number in range(7)]
    right = shutil.copy(client.user_key, tmp_path / "agent" / "right")
    with agent(*strangers, Path(right)) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        yield client


def test_a_full_agent_is_named_with_the_remedy(full: Client) -> None:
    full.configure("Host machine\n  HostName 127.0.0.1\n")
    error = full.refused()
    assert "closed the connection after 6 SSH keys (stranger0 in ssh-agent, " in error.message
    assert "IdentitiesOnly yes" in str(error.hint)


def test_IdentitiesOnly_offers_only_what_is_named(full: Client) -> None:
    full.configure(
        "Host machine\n  IdentitiesOnly yes\n" + HERE.removeprefix("Host machine\n").format(key=full.user_key)
    )
    assert full.answers()


def test_a_named_key_of_the_agent_is_offered_first(full: Client, tmp_path: Path) -> None:
    """Only its public half is here; the private one has been loaded from elsewhere."""
    public = tmp_path / "public"
    public.with_suffix(".pub").write_text(full.user_key.with_suffix(".pub").read_text())
    full.configure(HERE.format(key=public))
    assert full.answers()


def test_IdentityAgent_names_another_agent(full: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.environ["SSH_AUTH_SOCK"]
    public = full.user_key.with_suffix(".pub")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere")
    monkeypatch.setenv("OTHER", path)
    for named in (path, "$OTHER"):
        full.configure(f"Host machine\n  HostName 127.0.0.1\n  IdentityFile {full.folder}/x\n  IdentityAgent {named}\n")
        shutil.copy(public, full.folder / "x.pub")
        assert full.answers()
    full.configure("Host machine\n  HostName 127.0.0.1\n  IdentityFile /nowhere\n  IdentityAgent none\n")
    assert "no SSH key to offer was found" in full.refused().message


def test_the_keys_that_were_offered_are_named(client: Client, tmp_path: Path) -> None:
    stranger = make_key(tmp_path / "stranger")
    client.configure(HERE.format(key=stranger))
    assert f"does not accept our SSH key ({stranger})" in client.refused().message


def test_a_certificate_beside_the_key_is_offered(client: Client, tmp_path: Path) -> None:
    authority, key = make_key(tmp_path / "authority"), make_key(tmp_path / "mine")
    name = client.bench.node().ssh.user
    argv = ["ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", name, f"{key}.pub"]
    subprocess.run(argv, check=True)
    allowed = client.bench.server.folder / "authorized_keys"
    allowed.write_text(f"cert-authority {authority.with_suffix('.pub').read_text()}")
    client.configure(HERE.format(key=key))
    assert client.answers()


def test_slow_authentication_is_reported_as_slow(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identities, "AUTH_SECONDS", 1)
    slow = "AuthorizedKeysFile none\nAuthorizedKeysCommand /bin/sleep 600\nAuthorizedKeysCommandUser root\n"
    with Server(tmp_path / "slow").running(slow) as server:
        client.bench.known.write_text(server.host_key.with_suffix(".pub").read_text())
        client.configure("ConnectTimeout 1\n" + HERE.format(key=client.user_key))
        with pytest.raises(SmallkubeError, match="authentication took more than 1 s; look at DNS and PAM"):
            client.bench.session(host="machine", port=server.port).open()


@pytest.fixture
def gate(client: Client, tmp_path: Path) -> Iterator[Server]:
    """A jump host ``gate`` on the way to ``machine``."""
    with Server(tmp_path / "gate").running() as server:
        jump = f"Host gate\n  HostName 127.0.0.1\n  Port {server.port}\n  IdentityFile {server.folder}/user\n"
        client.configure(jump + HERE.format(key=client.user_key) + "  ProxyJump gate\n")
        yield server


def test_a_jump_host_is_passed_and_named(client: Client, gate: Server) -> None:
    client.know(gate)
    assert client.answers()
    assert "Accepted" in gate.log
    assert client.bench.session(host="machine").where.endswith(f"@machine:{client.bench.server.port} through gate)")


def test_two_jump_hosts_are_passed(client: Client, gate: Server, tmp_path: Path) -> None:
    with Server(tmp_path / "second").running() as second:
        client.know(gate, second)
        more = f"Host second\n  HostName 127.0.0.1\n  Port {second.port}\n  IdentityFile {second.folder}/user\n"
        config = (client.folder / "config").read_text()
        client.configure(more + config.replace("ProxyJump gate", "ProxyJump gate,second"))
        assert client.answers()
        assert "Accepted" in gate.log and "Accepted" in second.log


def test_a_jump_host_is_passed_by_few_at_a_time(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sshd drops connections when more than ten have not logged in (MaxStartups 10:30:100 by default)."""
    client.configure(HERE.format(key=client.user_key) + "  ProxyJump gate\n")
    together, counting, under_way, most = threading.Barrier(JUMPS), threading.Lock(), 0, 0

    def dial(_: Route) -> None:
        nonlocal under_way, most
        with counting:
            under_way += 1
            most = max(most, under_way)
        together.wait(60)
        with counting:
            under_way -= 1
        raise OSError("not dialled")

    monkeypatch.setattr(Route, "dial", dial)
    node = client.bench.node(host="machine")
    assert list(fleet.unreachable([node] * 3 * JUMPS, connector(client.bench.workspace))) == ["node1"]
    assert most == JUMPS < 10


MARKED = {
    "nothing": "",
    "a revoked key of another": "@revoked elsewhere {other}",
    "an authority": "@cert-authority *.example.org {other}",
    "another key of the same machine": "[127.0.0.1]:{port} {other}",
    "a comment in Latin-1": "# für alle\n",
}


@pytest.mark.parametrize("kind", MARKED)
def test_known_hosts_is_read_as_ssh_reads_it(client: Client, gate: Server, tmp_path: Path, kind: str) -> None:
    other = make_key(tmp_path / "other", "ecdsa").with_suffix(".pub").read_text()
    client.know(gate, before=MARKED[kind].format(other=other, port=gate.port))
    assert client.answers()


def test_an_unknown_jump_host_is_refused_and_blamed(client: Client, gate: Server) -> None:
    """Fabric would accept any host key of a jump host."""
    error = client.refused()
    assert "no way through gate: Host key verification failed." in error.message
    assert "nothing was sent" in error.message
    assert "keys.scan" not in str(error)
    assert "Accepted" not in gate.log


def test_a_changed_jump_host_is_not_the_node_s_fault(client: Client, gate: Server, tmp_path: Path) -> None:
    client.know(gate)
    text = (client.folder / "known_hosts").read_text()
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    (client.folder / "known_hosts").write_text(f"{text.split()[0]} {other}")
    error = client.refused()
    assert "no way through gate" in error.message and "Host key verification failed" in error.message
    assert "keys.scan" not in str(error)


def test_a_closed_jump_host_is_named(client: Client, gate: Server) -> None:
    client.know(gate)
    (gate.folder / "authorized_keys").write_text("")
    assert "no way through gate" in client.refused().message


def test_behind_a_jump_host_the_node_s_own_key_counts(client: Client, gate: Server, tmp_path: Path) -> None:
    client.know(gate)
    client.bench.known.write_text(make_key(tmp_path / "other").with_suffix(".pub").read_text())
    error = client.refused()
    assert "host key differs" in error.message and "nothing was sent" in error.message
    assert "Accepted" not in client.bench.server.log


def test_a_scan_goes_the_same_way(client: Client, gate: Server) -> None:
    def scanned() -> scan.Scanned:
        (row,) = scan.scan(client.bench.workspace, [client.bench.node(host="machine")], 10, lambda *_: None)
        return row

    found = scanned()
    assert (found.state, "through gate" in found.reason) == (scan.Scan.FAILED, True), found
    assert "Host key verification failed" in found.reason
    client.know(gate)
    assert (scanned().state, "Accepted" in gate.log) == (scan.Scan.SAME, True)


def test_no_process_stays_behind(client: Client, gate: Server) -> None:
    client.know(gate)
    client.answers()
    found = subprocess.run(["pgrep", "-P", str(os.getpid()), "-x", "ssh"], capture_output=True, text=True)
    assert found.stdout == ""
