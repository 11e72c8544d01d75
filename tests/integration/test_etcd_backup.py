"""`inv etcd.backup` with real etcd servers: what it makes, and that each fault is one line and changes nothing."""

import errno
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from smallkube.core.workspace import REPOSITORY
from smallkube.etcd import backup, catalog, signature, verify
from smallkube.etcd.stream import verify_backup
from smallkube.inventory.models import Node
from smallkube.remote.local import LocalHost
from smallkube.secrets.age import read_recipient, require_master
from tests.integration.conftest import Completed, PreparedWorkspace
from tests.integration.etcd import VERSIONS, Etcd, like_kubernetes, programs
from tests.integration.sshd import Server

Needs = Callable[[str, object, str], None]


@dataclass(frozen=True)
class Site:
    """A workspace, and the etcd on this machine that it backs up with --local."""

    cluster: PreparedWorkspace
    etcd: Etcd
    scratch: Path

    @property
    def folder(self) -> Path:
        return self.cluster.workspace.root / "backups"

    @property
    def words(self) -> tuple[str, ...]:
        where = ("--endpoint", self.etcd.endpoint, "--scratch", str(self.scratch))
        return ("etcd.backup", "--local", *where)

    def start(self, *words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        argv, environment = self.cluster.command(*self.words, *words), self.cluster.environment(PATH=self.etcd.path)
        return subprocess.Popen(
            argv,
            env=environment,
            cwd="/",
            text=True,
            stdout=pipe,
            stderr=pipe,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def inv(self, *words: str) -> Completed:
        return self.cluster.inv(*self.words, *words, PATH=self.etcd.path)

    def taken(self, *words: str) -> dict[str, Any]:
        """A backup that must succeed; the report."""
        done = self.inv("--json", *words)
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def files(self) -> dict[str, bytes]:
        """All backups and whatever else is there, but the lock."""
        return {path.name: path.read_bytes() for path in self.folder.iterdir() if path.name != ".lock"}

    def leftovers(self) -> list[str]:
        return [path.name for path in self.scratch.glob("*") if path.name != "lock"]

    def fails(self, done: Completed, reason: str, before: dict[str, bytes]) -> None:
        """One line with status 1; nothing is there that was not there before."""
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stdout == ""
        assert [reason in line for line in done.stderr.splitlines()] == [True], done.stderr
        assert self.files() == before
        await_(lambda: not self.leftovers())


def await_(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def server(folder: Path, version: str, needs: Needs) -> Etcd:
    found = programs(version)
    needs("integration", found, f"etcd {version} with etcdctl and etcdutl")
    assert found
    return Etcd(folder, found)


@pytest.fixture
def site(ready: PreparedWorkspace, tmp_path: Path, needs: Needs) -> Iterator[Site]:
    with server(tmp_path / "e", "3.6", needs).running() as etcd:
        etcd.put(like_kubernetes())
        yield Site(ready, etcd, tmp_path / "scratch")


@pytest.fixture
def large(site: Site) -> Site:
    """With a backup, and a database of which a snapshot takes a while."""
    site.taken()
    site.etcd.put({f"/registry/large/{number}": os.urandom(10_000) for number in range(3_000)})
    return site


@contextmanager
def tmpfs(folder: Path, size: str, needs: Needs) -> Iterator[Path]:
    needs("integration", os.geteuid() == 0, "root, to mount a small file system")
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_record_matches_the_snapshot(version: str, ready: PreparedWorkspace, tmp_path: Path, needs: Needs) -> None:
    with server(tmp_path / "e", version, needs).running() as etcd:
        etcd.put(like_kubernetes())
        etcd.put(dict.fromkeys(like_kubernetes(), b"newer"))
        etcd.ctl("del", "/registry/pods/default/pod-0")
        site = Site(ready, etcd, tmp_path / "scratch")
        record = site.taken()["record"]
        assert record["revision"] == etcd.revision == 4
        assert record["keys"] == 59 == len(etcd.content())
        assert record["prefixes"] == {"/registry/configmaps": 20, "/registry/pods": 19, "/registry/secrets": 20}
        assert record["etcd"].startswith(f"{version}.")
        assert [row["result"] for row in json.loads(ready.done("etcd.verify", "--json"))] == ["ok"]
        assert {path.name: path.stat().st_mode & 0o777 for path in site.folder.glob("*") if path.name != ".lock"} == {
            f"{record['name']}.db.zst.age": 0o600,
            f"{record['name']}.json": 0o600,
        }
        assert site.leftovers() == []


@pytest.mark.parametrize("version", VERSIONS)
def test_a_revision_below_etcds_own_is_not_recorded(
    version: str, ready: PreparedWorkspace, tmp_path: Path, needs: Needs
) -> None:
    """Older versions report it of a snapshot whose last key was compacted."""
    with server(tmp_path / "e", version, needs).running() as etcd:
        etcd.put({"/registry/a": b"1"})
        etcd.put({"/registry/b": b"1"})
        etcd.ctl("del", "/registry/b")
        etcd.ctl("compact", "4")
        real = (etcd.bin / "etcdutl").resolve()
        (etcd.bin / "etcdutl").unlink()
        (etcd.bin / "etcdutl").write_text(f"#!/bin/sh\n{real} \"$@\" | sed 's/, 4, /, 2, /'\n")
        (etcd.bin / "etcdutl").chmod(0o755)
        record = Site(ready, etcd, tmp_path / "scratch").taken()["record"]
        assert (record["revision"], record["keys"]) == (4, 1)


@pytest.mark.parametrize("keys", [5_000, 12_060], ids=["a full page", "more"])
def test_many_keys_are_counted_page_by_page(keys: int, site: Site) -> None:
    site.etcd.put({f"/registry/events/default/{number:06}": b"x" for number in range(keys - 60)})
    record = site.taken()["record"]
    assert record["keys"] == keys == sum(record["prefixes"].values())


def test_age_and_zstd_give_the_snapshot(site: Site, needs: Needs) -> None:
    needs("integration", all(map(os.access, ("/usr/bin/age", "/usr/bin/zstd"), (1, 1))), "age and zstd")
    record = site.taken()["record"]
    source, key = site.folder / f"{record['name']}.db.zst.age", site.cluster.workspace.master_key
    pipeline = f"age -d -i {shlex.quote(str(key))} {shlex.quote(str(source))} | zstd -dc | head -c -32 | sha256sum"
    output = subprocess.run(["sh", "-c", pipeline], capture_output=True, text=True, check=True).stdout
    assert output.split()[0] == record["snapshot_sha256"]


def test_no_private_key_is_needed_and_nothing_is_printed(site: Site) -> None:
    site.cluster.without_master()
    done = site.inv()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    rows = json.loads(site.cluster.done("etcd.verify", "--json"))
    assert [(row["result"], row["check"]) for row in rows] == [("ok", "ciphertext")]


def test_over_ssh_it_is_the_same(site: Site, tmp_path: Path, needs: Needs) -> None:
    with Server(tmp_path / "sshd").running() as sshd:
        through_ssh(site, sshd)
        words = [word for word in site.words if word != "--local"]
        site.cluster.done(*words)
        record = catalog.read(site.folder).records[0]
        assert record.keys == 60
        before = site.files()
        site.etcd.process.send_signal(signal.SIGSTOP)
        process = subprocess.Popen(
            site.cluster.command(*words), env=site.cluster.environment(), stderr=subprocess.PIPE, text=True
        )
        await_(site.leftovers)
        sshd.kill_sessions()
        _, err = process.communicate(timeout=60)
        assert (process.returncode, len(err.splitlines())) == (1, 1), err
        assert "connection lost while snapshot ran" in err
        assert site.files() == before
        await_(lambda: not site.leftovers())
        site.etcd.process.send_signal(signal.SIGCONT)


def through_ssh(site: Site, sshd: Server) -> None:
    """node1 of the workspace is ``sshd``; there, etcd's own programs are found first."""
    root = site.cluster.workspace
    (sshd.folder / "authorized_keys").write_text(
        f'environment="PATH={site.etcd.path}" {(sshd.folder / "user.pub").read_text()}'
    )
    text = root.inventory_file.read_text().replace(
        "192.168.0.1", f"192.168.0.1\n    ssh: {{host: 127.0.0.1, port: {sshd.port}, user: root}}", 1
    )
    root.inventory_file.write_text(text)
    (root.hosts_keys_dir / "node1.pub").write_bytes((sshd.folder / "host.pub").read_bytes())
    root.state_dir.mkdir(exist_ok=True)
    (root.state_dir / "ssh_key").write_bytes((sshd.folder / "user").read_bytes())
    (root.state_dir / "ssh_key").chmod(0o600)


def test_flipped_bits_and_cuts_are_detected(site: Site) -> None:
    site.taken()
    there = catalog.of(site.cluster.cluster)
    record, master = there.records[0], require_master(site.cluster.workspace, "to verify")
    path, chooser = there.folder / there.records[0].file, random.Random(7)
    whole = path.read_bytes()
    for number in range(200):
        position = chooser.randrange(len(whole))
        flipped = whole[:position] + bytes([whole[position] ^ 1 << chooser.randrange(8)]) + whole[position + 1 :]
        for damaged in (flipped, whole[:position]):
            path.write_bytes(damaged)
            found = verify.verify(there, [record.name], master if number % 2 else None, str)
            assert [each.result for each in found] == ["failed"], position
    path.write_bytes(whole)
    assert [each.result for each in verify.verify(there, [record.name], master, str)] == ["ok"]


def test_decrypting_alone_detects_damage(site: Site) -> None:
    site.taken()
    there = catalog.read(site.folder)
    master = require_master(site.cluster.workspace, "to verify")
    path, chooser = there.folder / there.records[0].file, random.Random(8)
    whole = path.read_bytes()
    for _ in range(100):
        position = chooser.randrange(len(whole))
        path.write_bytes(
            whole[:position] + bytes([whole[position] ^ 1 << chooser.randrange(8)]) + whole[position + 1 :]
        )
        with pytest.raises(Exception, match=r"damaged|can't open it"):
            verify_backup(path, master)


def test_a_damaged_backup_fails_and_does_not_count(site: Site) -> None:
    bad = site.taken()["record"]["name"]
    path = site.folder / f"{bad}.db.zst.age"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = site.cluster.inv("etcd.verify")
    assert done.returncode == 1
    assert f"not sound: {bad}" in done.stderr
    good = site.taken()["record"]["name"]
    listed = json.loads(site.cluster.done("etcd.list", "--json"))["backups"]
    assert [(row["name"], row["kept"]) for row in listed] == [
        (bad, ["not sound"]),
        (good, ["last", "daily", "weekly", "monthly"]),
    ]
    assert site.cluster.inv("etcd.prune", "--unsound").returncode == 2
    site.cluster.done("etcd.prune", "--unsound", "--yes")
    assert [record.name for record in catalog.read(site.folder).records] == [good]


def test_retention_is_applied_after_each_backup(site: Site) -> None:
    site.cluster.write_inventory([1, 2], backup={"keep": {"last": 2, "daily": 0, "weekly": 0, "monthly": 0}})
    names = [site.taken()["record"]["name"] for _ in range(4)]
    assert [record.name for record in catalog.read(site.folder).records] == names[2:]


def test_a_clock_jump_changes_neither_order_nor_choice(site: Site) -> None:
    first = site.taken()["record"]["name"]
    recipient = read_recipient(site.cluster.workspace, None) or ""
    now = datetime.now(UTC) - timedelta(days=400)
    options = backup.Options(site.etcd.endpoint, str(site.scratch))
    os.environ["PATH"], path = site.etcd.path, os.environ["PATH"]
    try:
        node = Node(name="node1", index=1, peer_ip="192.0.2.1")
        ours = backup.Identity("test", (recipient,), signature.signing_key(site.cluster.workspace))
        second = backup.take(LocalHost(node), catalog.read(site.folder), ours, now, options)
    finally:
        os.environ["PATH"] = path
    there = catalog.of(site.cluster.cluster)
    assert [record.name for record in there.records] == [first, second.name]
    assert there.newest == second
    site.taken()


def test_a_lower_revision_is_refused_without_the_flag(site: Site) -> None:
    site.taken()
    before = site.files()
    site.etcd.stop()
    fresh = Etcd(site.etcd.folder, site.etcd.programs, data="fresh")
    with fresh.running():
        site.fails(site.inv(), "--allow-older-revision", before)
        site.taken("--allow-older-revision")


def test_etcd_is_down(site: Site) -> None:
    site.taken()
    before = site.files()
    site.etcd.stop()
    site.fails(site.inv(), "etcd does not answer: dial unix", before)
    (site.etcd.folder / "grpc").unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(site.etcd.folder / "grpc"))
    site.fails(site.inv(), "connect: connection refused", before)


def test_etcd_hangs(site: Site) -> None:
    site.taken()
    before = site.files()
    site.etcd.process.send_signal(signal.SIGSTOP)
    site.fails(site.inv("--timeout", "2"), "etcd does not answer", before)


def test_etcd_is_killed_during_the_snapshot(large: Site) -> None:
    before = large.files()
    process = large.start("--timeout", "5")
    await_(lambda: list(large.scratch.glob("new.*/db.part")))
    large.etcd.process.kill()
    out, err = process.communicate(timeout=60)
    large.fails(Completed([], process.returncode, out, err), "the snapshot can't be taken", before)


@pytest.mark.parametrize(
    ("number", "send"),
    [(signal.SIGTERM, os.kill), (signal.SIGTERM, os.killpg), (signal.SIGINT, os.killpg), (signal.SIGKILL, os.kill)],
)
@pytest.mark.parametrize("moment", ["scratch/new.*/db.part", "ready/ws/backups/.tmp-*"])
def test_the_task_is_stopped(
    number: int, send: Callable[[int, int], None], moment: str, large: Site, tmp_path: Path
) -> None:
    """Also as a terminal and timeout(1) do it, which signal a whole group."""
    before = large.files()
    process = large.start()
    await_(lambda: list(tmp_path.glob(moment)))
    send(process.pid, number)
    out, err = process.communicate(timeout=60)
    await_(lambda: not large.leftovers())
    if number == signal.SIGKILL:
        assert {name: data for name, data in large.files().items() if not name.startswith(".tmp-")} == before
    else:
        assert process.returncode == (1 if number == signal.SIGTERM else 130)
        assert (out, len(err.splitlines())) == ("", 1), err
        assert large.files() == before
    large.taken()
    assert not [name for name in large.files() if name.startswith(".")]


def test_a_second_run_at_the_same_time(site: Site) -> None:
    site.taken()
    before = site.files()
    site.etcd.process.send_signal(signal.SIGSTOP)
    first = site.start()
    await_(site.leftovers)
    second = site.inv()
    assert (second.returncode, second.stdout) == (2, "")
    assert f"already being done by process {first.pid}" in second.stderr
    assert site.files() == before
    site.etcd.process.send_signal(signal.SIGCONT)
    assert first.wait(timeout=60) == 0


def test_no_space_for_the_snapshot_on_the_primary(site: Site, needs: Needs) -> None:
    site.taken()
    before = site.files()
    with tmpfs(site.scratch, "32k", needs):
        site.fails(site.inv(), "MiB free", before)


def test_no_space_for_the_backup(site: Site, tmp_path: Path, needs: Needs) -> None:
    site.etcd.put({f"/registry/large/{number}": os.urandom(10_000) for number in range(100)})
    with tmpfs(site.folder, "400k", needs):
        site.fails(site.inv(), f"can't be written: {os.strerror(errno.ENOSPC)}", {})


def test_missing_space_is_refused(site: Site, needs: Needs) -> None:
    with tmpfs(site.folder, "400k", needs):
        site.taken()
        (site.folder / "filler").write_bytes(bytes(370_000))
        before = site.files()
        site.fails(site.inv(), "is expected to take", before)


def test_an_empty_environment_is_enough(site: Site) -> None:
    argv = site.cluster.command(*site.words)
    environment = {"SMALLKUBE_WORKSPACE": str(site.cluster.workspace.root), "PATH": str(site.etcd.bin)}
    done = subprocess.run(argv, env=environment, cwd="/", capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def monitor() -> Iterator[tuple[str, list[str]]]:
    """A web server on loopback and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}/check", asked
        web.shutdown()
        thread.join()


def test_monitors_are_notified(site: Site, monitor: tuple[str, list[str]]) -> None:
    url, asked = monitor
    site.cluster.write_inventory([1, 2], backup={"ping_url": url, "metrics_file": "m/etcd.prom"})
    metrics = site.cluster.workspace.root / "m/etcd.prom"
    site.taken()
    assert asked == ["/check"]
    assert 'smallkube_etcd_backup_success{cluster="test"} 1' in metrics.read_text()
    site.etcd.stop()
    assert site.inv("--timeout", "2").returncode == 1
    assert asked == ["/check", "/check/fail"]
    assert 'smallkube_etcd_backup_success{cluster="test"} 0' in metrics.read_text()
    assert "last_success_timestamp_seconds" in metrics.read_text()


def test_failed_notifications_are_warnings(site: Site) -> None:
    site.cluster.write_inventory([1, 2], backup={"ping_url": "http://127.0.0.1:1/", "metrics_file": "/dev/null/x"})
    done = site.inv()
    assert done.returncode == 0
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["warning", "warning"]


def test_copies_catch_up_and_a_failed_copy_is_named(site: Site, tmp_path: Path) -> None:
    site.taken()
    with Server(tmp_path / "sshd").running() as sshd:
        root = site.cluster.workspace
        through_ssh(site, sshd)
        good, closed = f"sftp://root@127.0.0.1:{sshd.port}{tmp_path}/far/away", "sftp://root@127.0.0.1:1/x"
        site.cluster.write_inventory([1, 2], backup={"copy_to": [good, closed]})
        unknown = site.inv("--json")
        assert unknown.returncode == 1
        assert "keys/known_hosts" in unknown.stderr
        (root.keys_dir / "known_hosts").write_text(f"[127.0.0.1]:{sshd.port} {(sshd.folder / 'host.pub').read_text()}")
        done = site.inv("--json")
        assert (done.returncode, bool(done.stdout)) == (1, True), done.stderr
        report = json.loads(done.stdout)
        assert len(done.stderr.splitlines()) == 1
        assert f"{report['record']['name']} was taken, but copies failed: {closed}" in done.stderr
        assert len(report["copies"][0]["sent"]) == 3
        assert {path.name: path.read_bytes() for path in (tmp_path / "far/away").iterdir()} == site.files()
        site.cluster.write_inventory([1, 2], backup={"copy_to": [good], "keep": {"last": 1, "daily": 1}})
        assert site.taken()["copies"][0]["removed"]
        assert {path.name: path.read_bytes() for path in (tmp_path / "far/away").iterdir()} == site.files()


def test_a_copy_that_does_not_fit_leaves_the_backup(site: Site, tmp_path: Path, needs: Needs) -> None:
    site.etcd.put({f"/registry/large/{number}": os.urandom(10_000) for number in range(100)})
    with Server(tmp_path / "sshd").running() as sshd, tmpfs(tmp_path / "far", "200k", needs) as far:
        through_ssh(site, sshd)
        (site.cluster.workspace.keys_dir / "known_hosts").write_text(
            f"[127.0.0.1]:{sshd.port} {(sshd.folder / 'host.pub').read_text()}"
        )
        site.cluster.write_inventory([1, 2], backup={"copy_to": [f"sftp://root@127.0.0.1:{sshd.port}{far}"]})
        done = site.inv()
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert catalog.of(site.cluster.cluster).newest is not None
        assert not list(far.glob("*.age"))


def test_the_crontab_line_runs_under_cron(site: Site) -> None:
    texts = json.loads(site.cluster.done("etcd.schedule", "--local", "--json", "--at", "4:05"))
    minute, hour, *_, command = texts["crontab"].rstrip("\n").split(" ", 5)
    assert (minute, hour) == ("5", "4")
    command = command.replace("PATH=", f"PATH={site.etcd.bin}:", 1).replace("\\%", "%")
    command = command.replace("etcd.backup --local", shlex.join(site.words))
    environment = {"SHELL": "/bin/sh", "PATH": "/usr/bin:/bin", "LOGNAME": "root", "HOME": str(REPOSITORY.parent)}
    done = subprocess.run(["/bin/sh", "-c", command], env=environment, cwd="/", capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert catalog.of(site.cluster.cluster).newest


def test_the_systemd_units_are_valid_and_run(site: Site, tmp_path: Path, needs: Needs) -> None:
    needs("integration", Path("/usr/bin/systemd-analyze").exists(), "systemd-analyze")
    texts = json.loads(site.cluster.done("etcd.schedule", "--local", "--json"))
    units = tmp_path / "units"
    units.mkdir()
    for name, text in texts.items():
        (units / name).write_text(text)
    names = [str(units / name) for name in texts if name != "crontab"]
    checked = subprocess.run(["systemd-analyze", "verify", *names], capture_output=True, text=True)
    assert not [line for line in checked.stderr.splitlines() if "smallkube" in line], checked.stderr
    lines = dict(line.split("=", 1) for line in texts["smallkube-etcd-backup.service"].splitlines() if "=" in line)
    given = dict(word.split("=", 1) for word in shlex.split(lines["Environment"]))
    argv = [word for word in shlex.split(lines["ExecStart"]) if word not in ("etcd.backup", "--local")]
    environment = {**given, "PATH": f"{site.etcd.bin}:{given['PATH']}"}
    done = subprocess.run([*argv, *site.words], env=environment, cwd="/", capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
