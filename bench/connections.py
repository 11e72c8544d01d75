"""How long questions to a machine take over a kept connection, against OpenSSH with one each; and silent machines."""

import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench.harness import Plan, Row, absent, command, compare
from smallkube.core.workspace import Workspace
from smallkube.inventory.models import Node, Ssh
from smallkube.remote import fleet
from smallkube.remote.host import Command
from smallkube.remote.pool import Pool
from smallkube.remote.ssh import connector
from tests.integration.sshd import SSHD, Server

QUESTIONS = 10


def rows(plan: Plan) -> Iterator[Row]:
    if absent("connections", "ssh", "ssh-keygen", SSHD):
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        workspace = Workspace(root / "workspace")
        with Server(root / "server").running() as server:
            yield _questions(plan, workspace, server)
        with _silent() as port:
            yield _silence(plan, workspace, port)


def _questions(plan: Plan, workspace: Workspace, server: Server) -> Row:
    node = _node(1, server.port)
    workspace.hosts_keys_dir.mkdir(parents=True)
    workspace.state_dir.mkdir()
    (workspace.hosts_keys_dir / "node1.pub").write_text(Path(f"{server.host_key}.pub").read_text())
    own = workspace.state_dir / "ssh_key"
    own.write_text((server.folder / "user").read_text())
    own.chmod(0o600)

    def ours() -> None:
        with Pool(connector(workspace)) as pool:
            for _ in range(QUESTIONS):
                with pool.connect(node) as host:
                    host.run_checked(Command(("true",)))

    options = "-F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    ssh = f"ssh {options} -i {own} -p {server.port} -- root@127.0.0.1 true || exit"
    theirs = command(["sh", "-c", f"for i in $(seq {QUESTIONS}); do {ssh}; done"])
    work = f"{QUESTIONS} questions to a machine"
    return compare(plan, work, ours, "OpenSSH, a connection each", theirs, "at most 0.5 times")


def _silence(plan: Plan, workspace: Workspace, port: int) -> Row:
    nodes = [_node(index, port) for index in range(1, plan.nodes[0] + 1)]
    for node in nodes:
        (workspace.hosts_keys_dir / f"{node.name}.pub").write_text((workspace.hosts_keys_dir / "node1.pub").read_text())
    work = f"to see that {len(nodes)} machines are silent"
    return compare(plan, work, lambda: _all_silent(nodes, workspace), goal="at most 3.5 s")


def _all_silent(nodes: list[Node], workspace: Workspace) -> None:
    assert len(fleet.unreachable(nodes, connector(workspace))) == len(nodes)


def _node(index: int, port: int) -> Node:
    ssh = Ssh.model_validate({"host": "127.0.0.1", "port": port, "user": "root"})
    return Node(name=f"node{index}", index=index, peer_ip=f"192.0.2.{index}", ssh=ssh)


@contextmanager
def _silent() -> Iterator[int]:
    """A port whose queue is full: what Linux drops then is as little answered as by a machine that is off."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1))
        port: int = listener.getsockname()[1]
        attempt = partial(socket.create_connection, ("127.0.0.1", port), 0.2)
        while True:
            try:
                stack.enter_context(attempt())
            except TimeoutError:
                break
        yield port
