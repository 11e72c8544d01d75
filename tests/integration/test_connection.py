"""Proves against a real OpenSSH server: only the stored host key is accepted and nothing is sent to another, every
fault is one clear line, and bytes pass unharmed in both directions at once.
"""

import hashlib
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
from paramiko.common import MSG_CHANNEL_CLOSE, MSG_CHANNEL_DATA, MSG_CHANNEL_EOF

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.remote.host import Command
from smallkube.remote.pool import Pool
from smallkube.remote.ssh import SshHost, connector
from tests.integration.sshd import SSHD, Bench, Require, Server, free_port, make_key

pytestmark = pytest.mark.integration
MEGABYTES = 20


@pytest.fixture
def bench(tmp_path: Path, needs: Require, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    needs("integration", Path(SSHD).exists(), "sshd (openssh-server)")
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with Server(tmp_path / "server").running() as server:
        made = Bench(server, Workspace(tmp_path))
        made.workspace.hosts_keys_dir.mkdir(parents=True)
        made.workspace.state_dir.mkdir()
        made.known.write_text(server.host_key.with_suffix(".pub").read_text())
        made.own_key.write_bytes((server.folder / "user").read_bytes())
        yield made


def sh(script: str, *arguments: str, stdin: bytes | None = None, timeout: float = 60, hold: bool = False) -> Command:
    return Command(("sh", "-c", script, "sh", *arguments), stdin=stdin, timeout=timeout, hold=hold)


def refused(session: SshHost) -> str:
    """The one line with which the connection is refused."""
    with pytest.raises(SmallkubeError) as caught, session:
        pass
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(session.where)
    return line


def fingerprint(public: Path) -> str:
    done = subprocess.run(["ssh-keygen", "-lf", str(public)], capture_output=True, text=True, check=True)
    return done.stdout.split()[1]


def test_output_errors_and_status_are_returned(bench: Bench) -> None:
    with bench.session() as session:
        result = session.run(sh('echo "$1"; echo oops >&2; exit 3', "a'b\n$HOME"))
        assert (result.status, result.text, result.stderr) == (3, "a'b\n$HOME", "oops\n")
        assert [session.run(sh(f"exit {status}")).status for status in (0, 1, 127, 255)] == [0, 1, 127, 255]
        with pytest.raises(SmallkubeError, match="sh failed: oops"):
            session.run_checked(sh("echo oops >&2; exit 3"))


def test_another_host_key_is_refused_before_anything_is_sent(bench: Bench) -> None:
    right = fingerprint(bench.known)
    other = make_key(bench.workspace.root / "other").with_suffix(".pub")
    bench.known.write_text(other.read_text())
    line = refused(bench.session())
    assert f"host key differs: offered {right}, expected {fingerprint(other)}" in line
    assert "nothing was sent" in line
    assert "inv keys.scan --node node1 --replace" in line
    bench.server.await_log("Connection (closed|reset)")
    assert not re.search("Accepted|publickey|userauth", bench.server.log)


def test_another_kind_of_host_key_is_refused(bench: Bench, tmp_path: Path) -> None:
    with Server(tmp_path / "ecdsa", kind="ecdsa").running() as server:
        line = refused(bench.session(port=server.port))
        assert re.search(
            rf"host key differs: offered {re.escape(fingerprint(server.host_key))}, expected SHA256:", line
        )
        assert "nothing was sent" in line
        assert "Accepted" not in server.log


def test_known_hosts_is_not_consulted(bench: Bench) -> None:
    public = bench.server.host_key.with_suffix(".pub").read_text()
    file = Path(os.environ["HOME"], ".ssh/known_hosts")
    file.write_text(f"[127.0.0.1]:{bench.server.port} {public}")
    before = file.read_text()
    bench.known.write_text(make_key(bench.workspace.root / "other").with_suffix(".pub").read_text())
    assert "host key differs" in refused(bench.session())
    assert file.read_text() == before


def test_a_node_without_a_stored_host_key_is_wrong_usage(bench: Bench) -> None:
    bench.known.unlink()
    with pytest.raises(UsageError, match=r"node1: no host key is known; run `inv keys.scan --node node1`"):
        bench.session()


def test_a_user_key_that_is_not_let_in(bench: Bench) -> None:
    bench.own_key.unlink()
    bench.own_key.write_bytes(make_key(bench.workspace.root / "stranger").read_bytes())
    assert f"the machine does not accept our SSH key ({bench.own_key}); let your SSH key in" in refused(bench.session())


def test_a_user_key_with_a_passphrase(bench: Bench) -> None:
    bench.own_key.unlink()
    make_key(bench.own_key, passphrase="secret")
    assert f"the SSH key has a passphrase: {bench.own_key}; load it into ssh-agent" in refused(bench.session())


def test_a_damaged_user_key(bench: Bench) -> None:
    bench.own_key.write_text("not a key\n")
    refused(bench.session())


def test_a_machine_that_is_down(bench: Bench) -> None:
    line = refused(bench.session(port=free_port()))
    assert re.search(r"can't be reached: .*; is the machine up, and ssh.host right\?", line)


def test_a_host_name_that_does_not_exist(bench: Bench) -> None:
    assert "can't be reached" in refused(bench.session(host="no-such-host.invalid"))


def test_something_else_than_ssh_answers(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        refused(bench.session(port=listening.getsockname()[1]))


@pytest.mark.parametrize("reader", ["cat", "cat; cat >&2 <&-; true"])
def test_bytes_pass_both_ways_at_once(bench: Bench, reader: str) -> None:
    """A program that answers while it is still being fed must not be waited for on one side only."""
    data = os.urandom(MEGABYTES << 20)
    with bench.session() as session:
        echoed = session.run(sh(reader, stdin=data)).stdout
    assert hashlib.sha256(echoed).digest() == hashlib.sha256(data).digest()


def test_a_flood_on_standard_error_blocks_nothing(bench: Bench) -> None:
    on_stderr = 0

    def count(data: bytes) -> None:
        nonlocal on_stderr
        on_stderr += len(data)

    flood = f"head -c {MEGABYTES << 20} /dev/zero >&2; echo done"
    with bench.session() as session:
        assert session.run(sh(flood), on_stderr=count).text == "done"
    assert on_stderr == MEGABYTES << 20


def test_a_log_that_cant_be_written_is_reported_at_the_end(bench: Bench) -> None:
    def full(_: bytes) -> None:
        raise SmallkubeError("disk full")

    with bench.session() as session, pytest.raises(SmallkubeError, match="disk full"):
        session.run(sh("head -c 5000000 /dev/zero >&2"), on_stderr=full)


@pytest.mark.parametrize("flood", ["yes", "yes | head -c 8M >&2"])
def test_more_output_than_allowed_is_an_error(bench: Bench, flood: str) -> None:
    with bench.session() as session, pytest.raises(SmallkubeError, match="sh printed more than 1 MiB"):
        session.run(Command(("sh", "-c", flood), limit=1 << 20))


def test_a_command_need_not_read_what_it_is_given(bench: Bench) -> None:
    with bench.session() as session:
        assert session.run(sh("exit 5", stdin=bytes(MEGABYTES << 20))).status == 5
        assert session.run(sh("exec 0<&-; echo here", stdin=bytes(MEGABYTES << 20))).text == "here"


@pytest.mark.parametrize("given", [None, b"x"], ids=["its end", "data"])
def test_nothing_is_sent_to_a_command_that_has_ended(
    given: bytes | None, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sshd would close the connection, under the commands that run beside it."""
    closed, real = threading.Event(), paramiko.Transport._send_user_message  # type: ignore[attr-defined]
    script, late = [MSG_CHANNEL_DATA], [MSG_CHANNEL_DATA if given else MSG_CHANNEL_EOF]

    def send(transport: paramiko.Transport, message: paramiko.Message) -> None:
        kind = message.asbytes()[0]
        if kind in script:
            script.clear()
        elif kind in late:
            late.clear()
            closed.wait(1)
        real(transport, message)
        if kind == MSG_CHANNEL_CLOSE:
            closed.set()

    with bench.session() as session:
        monkeypatch.setattr(paramiko.Transport, "_send_user_message", send)
        assert session.run(sh("exit 3", stdin=given)).status == 3
        assert closed.wait(10)
        assert session.run(sh("echo still there")).text == "still there"


def test_a_stream_arrives_whole_after_what_was_given(bench: Bench, tmp_path: Path) -> None:
    data = os.urandom(MEGABYTES << 20)
    (tmp_path / "stream").write_bytes(data)
    with bench.session() as session, (tmp_path / "stream").open("rb") as stream:
        echoed = session.run(sh("cat", stdin=b"first"), source=stream).stdout
    assert echoed == b"first" + data


def test_a_stream_is_read_no_faster_than_it_is_taken(bench: Bench, tmp_path: Path) -> None:
    with (tmp_path / "stream").open("wb") as hole:
        hole.truncate(MEGABYTES << 24)
    with bench.session() as session, (tmp_path / "stream").open("rb") as stream:
        assert session.run(sh("head -c 1000 >/dev/null; exit 5"), source=stream).status == 5
        assert stream.tell() < MEGABYTES << 20


def test_standard_input_ends_where_nothing_is_given(bench: Bench) -> None:
    with bench.session() as session:
        assert session.run(sh("cat; echo end")).text == "end"


def test_a_command_is_cancelled_on_disconnect(bench: Bench, tmp_path: Path) -> None:
    stop = threading.Event()
    script = 'echo started >&2; cat; touch "$1"'
    with bench.session() as session, pytest.raises(SmallkubeError, match="interrupted while sh ran"):
        session.run(
            sh(script, str(tmp_path / "noticed"), hold=True), on_stderr=lambda _: stop.set(), stopped=stop.is_set
        )
    await_file(tmp_path / "noticed")


@pytest.mark.parametrize("words", ["sudo: a password is required", "sudo: interactive authentication is required"])
def test_sudo_that_wants_a_password_is_wrong_usage(bench: Bench, words: str) -> None:
    sudo(bench, f"echo '{words}' >&2; exit 1")
    with bench.session(become="sudo") as session:
        with pytest.raises(UsageError, match="may not use sudo without a password"):
            session.run(sh("exit 0"))
        assert session.run(Command(("sh", "-c", "exit 1"), root=False)).status == 1


def test_a_command_that_fails_under_sudo_is_a_result(bench: Bench) -> None:
    sudo(bench, 'shift 2; exec "$@"')
    with bench.session(become="sudo") as session:
        assert [session.run(sh(f"exit {status}")).status for status in (0, 1, 3)] == [0, 1, 3]


def sudo(bench: Bench, script: str) -> None:
    """Have ``sudo`` be ``script`` on the server; the first two arguments are -n and --."""
    program = bench.server.folder / "bin" / "sudo"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    key = (bench.server.folder / "user.pub").read_text()
    path = f'environment="PATH={program.parent}:{os.environ["PATH"]}"'
    (bench.server.folder / "authorized_keys").write_text(f"{path} {key}")


def await_file(path: Path) -> None:
    gate = threading.Event()
    for _ in range(400):
        if path.exists():
            return
        gate.wait(0.05)
    pytest.fail(f"{path} never came")


@pytest.mark.parametrize("script", ["sleep 600", "exec >&- 2>&-; sleep 600"])
def test_silence_is_given_up(bench: Bench, script: str) -> None:
    with bench.session() as session, pytest.raises(SmallkubeError, match="sh: no activity for 2 s"):
        session.run(sh(f"{script} & trap 'kill $!' EXIT; wait", timeout=2))


def test_a_command_that_speaks_now_and_then_is_not_given_up(bench: Bench) -> None:
    with bench.session() as session:
        slow = "for i in 1 2 3 4 5 6; do echo $i >&2; sleep 0.5; done; echo end"
        assert session.run(sh(slow, timeout=2)).text == "end"


def test_a_connection_that_breaks_is_one_line(bench: Bench) -> None:
    with bench.session() as session:
        with pytest.raises(SmallkubeError) as caught:
            session.run(sh("echo now >&2; sleep 600"), on_stderr=lambda _: bench.server.kill_sessions())
        assert re.fullmatch(r"node1 \(\S+\): connection lost while sh ran: .*", str(caught.value))
        with pytest.raises(SmallkubeError, match="connection lost while true ran"):
            session.run(Command(("true",)))


def test_a_connection_tells_whether_the_machine_still_answers(bench: Bench) -> None:
    with bench.session() as session:
        assert session.answers()
        assert session.run(sh("echo here")).text == "here"
        bench.server.kill_sessions()
        assert not session.answers()
    assert not session.answers()


def test_a_lost_connection_is_replaced_when_it_is_lent(bench: Bench) -> None:
    with Pool(connector(bench.workspace)) as pool:
        for _ in range(2):
            with pool.connect(bench.node()) as session:
                assert session.run(sh("echo here")).text == "here"
            bench.server.kill_sessions()
    assert bench.server.log.count("Accepted publickey") == 2


def test_a_session_that_was_never_opened_is_an_error_too(bench: Bench) -> None:
    with pytest.raises(SmallkubeError, match="connection lost while true ran: not connected"):
        bench.session().run(Command(("true",)))


SHELLS = {"bash": "/bin/bash", "dash": "/bin/dash", "fish": "/usr/bin/fish", "tcsh": "/usr/bin/tcsh"}
ARGUMENTS = ("a'b", "$HOME", "!!", "\\\\", "`id`", "a\nb", "*", "", "'\\''", '"', "é", "^x^y", "{a,b}", "%1", "~")


def login_shell(bench: Bench, program: str) -> None:
    """Have the server hand every command to ``program``, as it does with a user's login shell."""
    key = (bench.server.folder / "user.pub").read_text()
    (bench.server.folder / "authorized_keys").write_text(
        f'command="exec {program} -c \\"$SSH_ORIGINAL_COMMAND\\"" {key}'
    )


@pytest.mark.parametrize("shell", SHELLS)
def test_arguments_mean_the_same_to_every_login_shell(bench: Bench, needs: Require, shell: str) -> None:
    needs("integration", Path(SHELLS[shell]).exists(), shell)
    login_shell(bench, SHELLS[shell])
    with bench.session() as session:
        printed = session.run(Command(("printf", "%s\\0", *ARGUMENTS)))
        assert printed.stdout == "".join(f"{word}\0" for word in ARGUMENTS).encode(), printed.stderr
        assert session.run(sh('cat; echo oops >&2; echo "$LC_ALL"; exit 3', stdin=b"data ")).status == 3
        assert session.run(sh('cat; echo "$LC_ALL"', stdin=b"data ")).text == "data C"


def test_what_a_login_shell_prints_is_no_output(bench: Bench, tmp_path: Path) -> None:
    shell = tmp_path / "noisy"
    shell.write_text('#!/bin/sh\nprintf "Welcome, \\n"\nprintf "no newline" >&2\nexec /bin/sh "$@"\n')
    shell.chmod(0o755)
    login_shell(bench, str(shell))
    with bench.session() as session:
        result = session.run(sh("echo out; echo err >&2"))
    assert (result.text, result.stderr) == ("out", "err\n")


def test_a_login_shell_that_refuses_is_reported(bench: Bench, tmp_path: Path) -> None:
    shell = tmp_path / "nologin"
    shell.write_text("#!/bin/sh\necho This account is currently not available.\nexit 1\n")
    shell.chmod(0o755)
    login_shell(bench, str(shell))
    with bench.session() as session, pytest.raises(SmallkubeError, match="true failed: This account is currently not"):
        session.run_checked(Command(("true",)))
