"""What the disk refuses: every task says so in one line, and keys/ stays whole. No machine can be reached meanwhile."""

import dataclasses
import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from invoke.collection import Collection

from smallkube.cli.app import tree
from smallkube.cli.program import SmallkubeProgram
from smallkube.core.workspace import Workspace
from smallkube.etcd import catalog, signature
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.nix import render
from smallkube.operations import admins, users
from smallkube.secrets.transaction import changing_keys
from tests.leaks import RECIPIENT
from tests.unit.test_etcd_retention import START, record

TASKS = {
    "doctor": ["doctor"],
    "init": ["init", "WORKSPACE/new"],
    "inventory.import": ["inventory.import", "WORKSPACE/peers.json", "--yes"],
    "inventory.show": ["inventory.show"],
    "nodes.add": ["nodes.add", "node9", "--peer-ip", "192.0.2.9"],
    "nodes.remove": ["nodes.remove", "node2", "--yes"],
    "admins.add": ["admins.add", "bob", "--recipient", RECIPIENT],
    "admins.list": ["admins.list"],
    "keys.list": ["keys.list"],
    "keys.prune": ["keys.prune", "--yes"],
    "users.list": ["users.list"],
    "keys.check": ["keys.check"],
    "keys.show": ["keys.show", "kube_token_root"],
    "keys.generate": ["keys.generate"],
    "keys.rekey": ["keys.rekey"],
    "keys.edit": ["keys.edit", "kube_token_root"],
    "keys.new-host": ["keys.new-host", "node2", "--out", "WORKSPACE/new", "--replace"],
    "nix.render": ["nix.render"],
    "cluster.kubeconfig": ["cluster.kubeconfig"],
    "etcd.list": ["etcd.list"],
    "etcd.prune": ["etcd.prune", "--unsound", "--yes"],
    "etcd.verify": ["etcd.verify"],
    "etcd.backup": ["etcd.backup", "--local"],
    "tokens.rotate": ["tokens.rotate", "--all", "--dry-run"],
    "keys.rotate-master": ["keys.rotate-master", "--yes"],
    "keys.rotate-wireguard": ["keys.rotate-wireguard", "--yes"],
}
"""Those that have something to do without machines; WORKSPACE stands for its folder."""
REACHING = {
    "admins.remove": ["bob", "--yes"],
    "cluster.audit": [],
    "cluster.connect": ["--port", "0"],
    "cluster.conformance": ["--program", "/bin/true", "--kubeconfig", "/bin/true", "--kubectl", "/bin/true"],
    "cluster.rebuild-primary": ["--yes"],
    "cluster.report": [],
    "cluster.smoke": [],
    "cluster.status": [],
    "cluster.support": [],
    "cluster.upgrade": ["--yes"],
    "cluster.upgrade-check": [],
    "deploy.deploy": [],
    "deploy.history": [],
    "deploy.plan": [],
    "deploy.rollback": ["--yes"],
    "deploy.status": [],
    "encryption.rotate": ["--yes"],
    "etcd.drill": [],
    "etcd.restore": ["--yes"],
    "etcd.schedule": [],
    "etcd.status": [],
    "inventory.check": [],
    "inventory.schema": [],
    "keys.rotate-certificates": ["--yes"],
    "keys.rotate-issuer": ["--yes"],
    "keys.scan": [],
    "net.bench": [],
    "net.check": [],
    "nix.check": [],
    "nodes.adopt": ["--node", "node2", "--yes"],
    "nodes.drain": ["--node", "node2", "--yes"],
    "nodes.exec": ["--", "true"],
    "nodes.gc": ["--yes"],
    "nodes.install": ["node2", "/nonexistent", "--yes"],
    "nodes.logs": ["kubelet"],
    "nodes.reboot": ["--yes"],
    "nodes.reset": ["--node", "node2", "--force", "--yes"],
    "nodes.uncordon": ["--node", "node2"],
    "tokens.rotate": ["--all", "--yes"],
    "tokens.status": [],
    "users.add": ["alice"],
    "users.kubeconfig": ["alice"],
    "users.remove": ["alice", "--yes"],
}
"""The others, and their words."""
READ_ONLY = {
    "doctor",
    "inventory.show",
    "admins.list",
    "keys.list",
    "users.list",
    "keys.check",
    "keys.show",
    "keys.prune",
    "etcd.list",
    "tokens.rotate",
}
REFUSALS = [errno.EROFS, errno.ENOSPC, errno.EACCES, errno.EIO]
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link", "os.symlink"}
"""Audit events of what changes a file system (docs.python.org/3/library/audit_events.html)."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass
class Disk:
    """Refuses changes below ``root`` with the error ``number``: those of ``events``, but for the ``first`` ones."""

    root: Path
    number: int
    first: int = 0
    events: frozenset[str] = frozenset(CHANGES)
    seen: int = 0

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in self.events:
            return
        named = arguments[0]
        if event == "open" and (isinstance(named, int) or not int(str(arguments[2])) & WRITING):
            return
        path = str(Path(f"/proc/self/fd/{named}").readlink() if isinstance(named, int) else named)
        if not Path(os.path.abspath(path)).is_relative_to(self.root):  # noqa: PTH100 - follows no links
            return
        self.seen += 1
        if self.seen > self.first:
            raise OSError(self.number, os.strerror(self.number), path)


_disks: list[Disk] = []


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if _disks and event in CHANGES:
        _disks[0].audit(event, arguments)


sys.addaudithook(_audit)


@contextmanager
def faulty(disk: Disk) -> Iterator[Disk]:
    _disks.append(disk)
    try:
        yield disk
    finally:
        _disks.clear()


@pytest.fixture
def place(task: str, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace in which ``task`` has something to do."""
    root = shutil.copytree(template, tmp_path / "workspace")
    if task == "keys.generate":
        (root / "keys" / "kube_token_system_kube-scheduler.age").unlink()
    (root / "backups").mkdir()
    (root / "backups" / "orphan.db.zst.age").write_text("no record")
    (root / "peers.json").write_text('["192.168.0.1", "192.168.0.2", "192.168.0.3"]')
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf %064d 7 >"$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("SMALLKUBE_DEBUG", raising=False)
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(root))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return Workspace(root)


ALL = tree()


def only(task: str) -> Collection:
    """The tree with one task: Invoke copies all of it for each command."""
    space, _, name = task.rpartition(".")
    inner, outer = Collection(space or "all"), Collection()
    inner.add_task(ALL[task], name)
    outer.add_collection(inner)
    return outer if space else inner


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    status: object = 0
    words = [word.replace("WORKSPACE", os.environ["SMALLKUBE_WORKSPACE"]) for word in words]
    try:
        SmallkubeProgram(name="smallkube", namespace=only(words[0])).run(["smallkube", *words])
    except SystemExit as end:
        status = end.code
    return int(str(status or 0)), capsys.readouterr().err.splitlines()


def contents(workspace: Workspace) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in workspace.keys_dir.rglob("*") if file.is_file()}


def said_once(errors: list[str], number: int) -> bool:
    """Whether the fault is the last line, and the only one that names it; messages on the way may come before."""
    naming = [line for line in errors if os.strerror(number) in line]
    return naming == errors[-1:] and all(line.isprintable() for line in errors)


@pytest.mark.parametrize("task", TASKS)
def test_refused_writes_are_one_line(task: str, place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(place)
    for number in REFUSALS:
        with faulty(Disk(place.root, number)):
            status, errors = run(TASKS[task], capsys)
        idle = task in READ_ONLY or (task == "keys.rekey" and number == errno.EACCES)  # its lock can be had
        assert status == (0 if idle else 1) and (status == 0 or said_once(errors, number)), errors
        assert contents(place) == before


def test_each_task_is_tried() -> None:
    assert {*TASKS, *REACHING} == set(ALL.task_names)


@pytest.fixture(scope="session")
def rendered(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a signed backup, of two machines that refuse connections."""
    root = shutil.copytree(template, tmp_path_factory.mktemp("rendered") / "workspace")
    workspace, ports = Workspace(root), iter((1, 2))
    text = workspace.inventory_file.read_text()
    ssh = re.sub(r"peer_ip: \S+", lambda found: f"{found[0]}\n    ssh: {{host: 127.0.0.1, port: {next(ports)}}}", text)
    workspace.inventory_file.write_text(ssh)
    with changing_keys(workspace):
        admins.add(admins.plan_addition(Cluster(workspace, load(workspace.inventory_file)), "bob", RECIPIENT))
        cluster = Cluster(workspace, load(workspace.inventory_file))
        users.add(cluster, users.Wanted("alice"), datetime.now(UTC))
    render.plan(cluster).apply()
    (root / "backups").mkdir()
    taken = dataclasses.replace(record(1, START), cluster="test")
    catalog.write_record(root / "backups", signature.sign(taken, signature.signing_key(workspace)))
    (root / "backups" / taken.file).write_bytes(bytes(taken.stored_size))
    programs = root.with_name("bin")
    programs.mkdir()
    for name in ("etcd", "etcdctl", "etcdutl", "nix", "nix-instantiate"):
        (programs / name).write_text(f"#!/bin/sh\necho {name} 3.6.6\nexit {int(name.startswith('nix'))}\n")
        (programs / name).chmod(0o755)
    return root


@pytest.mark.parametrize("task", REACHING)
def test_no_refusal_is_a_traceback(
    task: str, rendered: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(rendered))
    monkeypatch.setenv("PATH", f"{rendered.with_name('bin')}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "argv", words := ["smallkube", task, *REACHING[task]])
    before = contents(Workspace(rendered))
    for number in REFUSALS:
        with faulty(Disk(rendered, number)):
            status, errors = run(words[1:], capsys)
        naming = [line for line in errors if os.strerror(number) in line]
        # Without the key that it needs, nodes.install refuses.
        assert status in ((0, 1, 2) if task == "nodes.install" else (0, 1)) and naming in ([], errors[-1:]), (
            number,
            errors,
        )
        assert bool(status) <= bool(errors) and all(line.isprintable() for line in errors)
        assert contents(Workspace(rendered)) == before


@pytest.mark.parametrize(
    "task", [task for task in TASKS if task not in (*READ_ONLY, "etcd.backup", "etcd.verify", "init", "keys.new-host")]
)
def test_a_disk_that_fills_up_is_one_line(task: str, place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever write is the first that is refused; the same command completes it, and leaves nothing behind."""
    original = shutil.copytree(place.root, place.root.with_name("original"))
    for first in (1, 3, 8, 21, 144):
        with faulty(Disk(place.root, errno.ENOSPC, first)) as disk:
            status, errors = run(TASKS[task], capsys)
        if disk.seen <= first:
            break
        assert status in (0, 1) and (status == 0 or said_once(errors, errno.ENOSPC)), (first, errors)
        if status:
            assert run(TASKS[task], capsys)[0] == 0, first
        assert not task.startswith("keys.") or run(["keys.check"], capsys)[0] == 0, first
        assert not [*place.keys_dir.rglob(".tmp-*")], first
        shutil.rmtree(place.root)
        shutil.copytree(original, place.root)
    assert disk.seen <= first


@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("doctor", "etcd.backup", "etcd.verify")])
def test_file_system_without_modes_will_do(task: str, place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    with faulty(Disk(place.root, errno.EPERM, events=frozenset({"os.chmod"}))):
        assert run(TASKS[task], capsys)[0] == 0


@pytest.mark.parametrize("task", ["keys.generate", "keys.rekey", "keys.edit"])
def test_lock_of_another_user_can_be_taken(task: str, place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """A run with sudo leaves one of root's."""
    with faulty(Disk(place.state_dir / "keys.lock", errno.EACCES)) as disk:
        assert run(TASKS[task], capsys) == (0, [])
    assert disk.seen


@pytest.mark.parametrize("task", ["keys.edit"])
@pytest.mark.parametrize("first", range(4))
def test_full_tmpfs_leaves_no_plaintext(
    task: str, first: int, place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    memory, before = Path("/dev/shm"), contents(place)
    own = f"*{os.getpid()}-*"  # other processes edit secrets at the same time
    with faulty(Disk(memory, errno.ENOSPC, first, events=frozenset({"open", "os.mkdir"}))) as disk:
        status, errors = run(TASKS[task], capsys)
    assert status == (disk.seen > first and first < 3) and (not status or said_once(errors, errno.ENOSPC)), errors
    assert not [*memory.glob(own)] and (not status or contents(place) == before)
