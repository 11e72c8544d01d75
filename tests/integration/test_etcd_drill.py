"""`inv etcd.drill` with real etcd of each version: it passes what is right, names what differs, opens nothing to other
users, and leaves neither files nor processes, however it ends.
"""

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smallkube.core.workspace import Workspace
from smallkube.etcd import catalog, drills, signature
from smallkube.etcd.record import EncryptionKey, Record
from tests.conftest import require
from tests.integration.conftest import Completed, PreparedWorkspace
from tests.integration.etcd import PROGRAMS, VERSIONS, Etcd, like_kubernetes, programs
from tests.integration.test_etcd_backup import Site, await_, server, tmpfs

Needs = Callable[[str, object, str], None]
KEY = EncryptionKey("key1", "0" * 64)


class Drill:
    """A workspace with one backup; ``bin``, the folder for --etcd-dir, is made in ``folder`` from etcd's programs."""

    def __init__(self, cluster: PreparedWorkspace, programs: Path, folder: Path) -> None:
        self.cluster = cluster
        self.folder = cluster.workspace.root / "backups"
        self.base = cluster.workspace.state_dir
        self.bin = folder / "programs"
        self.bin.mkdir()
        for name in PROGRAMS:
            (self.bin / name).symlink_to((programs / name).resolve())

    @classmethod
    def of(cls, site: Site) -> "Drill":
        return cls(site.cluster, site.etcd.programs, site.etcd.folder)

    @property
    def record(self) -> Record:
        (record,) = catalog.read(self.folder).records
        return record

    def rewrite(self, **changes: Any) -> None:
        changed = dataclasses.replace(self.record, **changes)
        key = signature.signing_key(self.cluster.workspace)
        catalog.write_record(self.folder, signature.sign(changed, key))

    @property
    def words(self) -> tuple[str, ...]:
        return ("etcd.drill", "--json", "--etcd-dir", str(self.bin))

    def inv(self, *words: str, **environment: str) -> Completed:
        return self.cluster.inv(*self.words, *words, **environment)

    def start(self) -> subprocess.Popen[str]:
        environment, pipe = self.cluster.environment(), subprocess.PIPE
        argv = self.cluster.command(*self.words)
        return subprocess.Popen(argv, env=environment, cwd="/", text=True, stdout=pipe, stderr=pipe)

    def results(self, done: Completed, status: int = 0) -> dict[str, str]:
        assert done.returncode == status, done.stdout + done.stderr
        self.no_traces()
        return {check["check"]: check["result"] for check in json.loads(done.stdout)["checks"]}

    def fails(self, done: Completed, reason: str, status: int = 1) -> None:
        """One line, and nothing left."""
        assert (done.returncode, done.stdout) == (status, ""), done.stdout + done.stderr
        assert [reason in line for line in done.stderr.splitlines()] == [True], done.stderr
        self.no_traces()

    def replace(self, program: str, script: str) -> None:
        (self.bin / program).unlink()
        (self.bin / program).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / program).chmod(0o755)

    def wrap(self, program: str, before: str) -> None:
        """Have ``program`` do something ``before`` all but reporting its version."""
        real = shlex.quote(str((self.bin / program).resolve()))
        self.replace(program, f'case $1 in *version) ;; *) {before} ;; esac\nexec {real} "$@"')

    def pause(self) -> tuple[Path, Path]:
        """Comparing waits: the file that exists once it has begun, and the one that lets it continue."""
        begun, go = self.bin / "begun", self.bin / "go"
        wait = f"while [ ! -e {go} ]; do sleep 0.05; done"
        self.wrap("etcdctl", f'case "$*" in *--from-key*) touch {begun}; {wait} ;; esac')
        return begun, go

    def no_traces(self) -> None:
        """A wrapper's last short sleep may outlive it."""
        await_(lambda: self.traces() == [], 10)

    def traces(self) -> list[str]:
        """Folders of drills, and processes that work in one."""
        return [str(path) for path in self.base.glob("drill-*")] + [str(pid) for pid in self.processes()]

    def processes(self) -> list[int]:
        return [pid for pid, where in _folders() if where.startswith(f"{self.base}/drill-")]


def _folders() -> Iterator[tuple[int, str]]:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            yield int(path.name), str((path / "cwd").readlink())
        except OSError:
            continue


@pytest.fixture(scope="session")
def backed_up(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the template with a backup by etcd 3.6."""
    folder = shutil.copytree(generated, tmp_path_factory.mktemp("backed-up") / "ready")
    ready = PreparedWorkspace(Workspace(folder / "ws"), folder / "ws-private")
    prepared("3.6", ready, tmp_path_factory.mktemp("site"), require)
    return folder


@pytest.fixture
def drill(backed_up: Path, tmp_path: Path) -> Drill:
    folder = shutil.copytree(backed_up, tmp_path / "ready")
    found = programs("3.6")
    assert found
    return Drill(PreparedWorkspace(Workspace(folder / "ws"), folder / "ws-private"), found, tmp_path)


def prepared(version: str, ready: PreparedWorkspace, folder: Path, needs: Needs) -> Drill:
    with server(folder / "e", version, needs).running() as etcd:
        site = Site(ready, etcd, folder / "scratch")
        etcd.put(like_kubernetes())
        etcd.put({"/registry/pods/default/pod-0": b"changed", "/registry/leases/one": b"x"})
        etcd.ctl("del", "/registry/leases/one")
        site.taken()
    made = Drill.of(site)
    made.rewrite(encryption_keys=(KEY,))
    return made


@pytest.mark.parametrize("version", VERSIONS)
def test_a_good_backup_passes(version: str, ready: PreparedWorkspace, tmp_path: Path, needs: Needs) -> None:
    drill = prepared(version, ready, tmp_path, needs)
    done = drill.inv()
    assert set(drill.results(done).values()) == {"ok"}
    details = {check["check"]: check["detail"] for check in json.loads(done.stdout)["checks"]}
    assert details["revision"] == str(drill.record.revision)
    assert details["keys"] == "60"
    assert details["encryption"] == "20 Secrets: 20 need key1"
    kept = drills.read(drill.cluster.workspace)[drill.record.name]
    assert (kept.fault, kept.seconds > 0) == ("", True)


EVERYTHING = ("", "--from-key")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("commands", "revision"),
    [
        pytest.param([], 1, id="never-written"),
        pytest.param([("compact", "1")], 1, id="never-written-compacted"),
        pytest.param([("put", "/registry/a", "1"), ("del", *EVERYTHING)], 3, id="deleted"),
        pytest.param(
            [("put", "/registry/a", "1"), ("del", *EVERYTHING), ("compact", "3", "--physical"), ("defrag",)],
            3,
            id="deleted-compacted",
        ),
    ],
)
def test_an_etcd_without_keys_passes(
    commands: list[tuple[str, ...]], revision: int, version: str, ready: PreparedWorkspace, tmp_path: Path, needs: Needs
) -> None:
    with server(tmp_path / "e", version, needs).running() as etcd:
        for command in commands:
            etcd.ctl(*command)
        assert etcd.revision == revision
        site = Site(ready, etcd, tmp_path / "scratch")
        site.taken()
        site.taken()
    drill = Drill.of(site)
    assert [(record.revision, record.keys, record.prefixes) for record in catalog.read(drill.folder).records] == [
        (revision, 0, {})
    ] * 2
    assert [row["result"] for row in json.loads(ready.done("etcd.verify", "--json"))] == ["ok", "ok"]
    assert set(drill.results(drill.inv()).values()) == {"ok"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("written", [False, True])
def test_a_backup_of_a_restored_etcd_passes(
    written: bool, version: str, ready: PreparedWorkspace, tmp_path: Path, needs: Needs
) -> None:
    """Restored as on the primary: with its revisions raised and marked compacted."""
    bumped = ("--bump-revision", "1000000000", "--mark-compacted")
    with server(tmp_path / "e", version, needs).running() as etcd:
        if written:
            etcd.put({"/registry/a": b"1"})
        etcd.ctl("snapshot", "save", str(tmp_path / "snapshot"))
    restore = f"{etcd.programs}/etcdutl snapshot restore {tmp_path}/snapshot --data-dir {tmp_path}/e/new"
    subprocess.run([*restore.split(), *bumped], check=True, capture_output=True)
    with Etcd(etcd.folder, etcd.programs, data="new").running() as restored:
        site = Site(ready, restored, tmp_path / "scratch")
        record = site.taken()["record"]
        assert (record["revision"], record["keys"]) == (restored.revision, int(written))
        assert restored.revision >= 1_000_000_000
    drill = Drill.of(site)
    assert set(drill.results(drill.inv()).values()) == {"ok"}


@pytest.mark.parametrize("version", VERSIONS)
def test_an_alarm_is_recorded_and_reported(
    version: str, ready: PreparedWorkspace, tmp_path: Path, needs: Needs
) -> None:
    folder, found = tmp_path / "e", programs(version)
    needs("integration", found, f"etcd {version}")
    assert found
    with Etcd(folder, found, quota=1 << 20).running() as etcd:
        etcd.fill()
        site = Site(ready, etcd, tmp_path / "scratch")
        assert site.taken()["record"]["alarms"] == ["NOSPACE"]
    drill = Drill.of(site)
    done = drill.inv()
    results = drill.results(done)
    assert (results.pop("alarms"), set(results.values())) == ("warning", {"ok"})
    assert "NOSPACE" in done.stdout


def test_more_keys_than_one_page_are_counted(ready: PreparedWorkspace, tmp_path: Path, needs: Needs) -> None:
    with server(tmp_path / "e", "3.6", needs).running() as etcd:
        site = Site(ready, etcd, tmp_path / "scratch")
        etcd.put(like_kubernetes(count=2001, size=10))
        site.taken()
    drill = Drill.of(site)
    drill.rewrite(encryption_keys=(KEY,))
    assert drill.record.keys == 6003
    assert set(drill.results(drill.inv()).values()) == {"ok"}


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"revision": 7}, "revision"),
        ({"keys": 61}, "keys"),
        ({"prefixes": {"/registry/pods": 60}}, "prefixes"),
        ({"encryption_keys": (EncryptionKey("other", "0" * 64),)}, "encryption"),
        ({"encryption_keys": ()}, "encryption"),
    ],
)
def test_a_difference_is_named(changes: dict[str, Any], check: str, drill: Drill) -> None:
    drill.rewrite(**changes)
    done = drill.inv()
    assert {name for name, result in drill.results(done, 1).items() if result == "failed"} == {check}
    assert f"differs from what was recorded: {check}" in done.stderr
    assert drills.read(drill.cluster.workspace)[drill.record.name].fault.startswith(f"{check}: ")


def test_a_secret_in_clear_fails(ready: PreparedWorkspace, tmp_path: Path, needs: Needs) -> None:
    with server(tmp_path / "e", "3.6", needs).running() as etcd:
        site = Site(ready, etcd, tmp_path / "scratch")
        etcd.put({**like_kubernetes(), "/registry/secrets/default/s-3": b"k8s\x00clear"})
        site.taken()
    drill = Drill.of(site)
    drill.rewrite(encryption_keys=(KEY,))
    assert drill.results(drill.inv(), 1)["encryption"] == "failed"


def test_what_was_not_counted_is_skipped(drill: Drill) -> None:
    drill.rewrite(keys=None, prefixes=None)
    results = drill.results(drill.inv())
    assert (results.pop("keys"), results.pop("prefixes")) == ("skipped", "skipped")
    assert set(results.values()) == {"ok"}


def test_it_needs_no_privileges(drill: Drill, needs: Needs) -> None:
    needs("integration", os.geteuid() == 0, "root, to give privileges up")
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    done = subprocess.run(
        [*bare, *drill.cluster.command(*drill.words)],
        env=drill.cluster.environment(),
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert set(drill.results(done).values()) == {"ok"}


def test_environment_variables_of_etcd_are_ignored(drill: Drill) -> None:
    settings = {"ETCD_FORCE_NEW_CLUSTER": "nonsense", "ETCDCTL_ENDPOINTS": "http://127.0.0.1:1", "ETCDCTL_USER": "a:b"}
    assert set(drill.results(drill.inv(**settings)).values()) == {"ok"}


def test_its_etcd_listens_on_private_sockets_only(drill: Drill) -> None:
    begun, go = drill.pause()
    process = drill.start()
    await_(begun.exists)
    (folder,) = drill.base.glob("drill-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    inodes = {inode for pid in drill.processes() for inode in _sockets(pid)}
    unix = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    named = {row[7] for row in unix if row[6] in inodes and len(row) > 7}
    assert {"grpc", "peer"} <= {Path(name).name for name in named}
    assert not [name for name in named if name.startswith("@")]
    internet = [line.split()[9] for kind in ("tcp", "tcp6", "udp", "udp6") for line in _table(kind)]
    assert inodes.isdisjoint(internet)
    go.touch()
    assert set(drill.results(_ended(process)).values()) == {"ok"}


def _sockets(pid: int) -> Iterator[str]:
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(path.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]


def _table(kind: str) -> list[str]:
    return Path(f"/proc/net/{kind}").read_text().splitlines()[1:]


def _ended(process: subprocess.Popen[str]) -> Completed:
    out, err = process.communicate(timeout=60)
    return Completed(process.args, process.returncode, out, err)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_cleans_up(number: signal.Signals, drill: Drill) -> None:
    begun, _ = drill.pause()
    process = drill.start()
    await_(begun.exists)
    process.send_signal(number)
    done = _ended(process)
    assert (done.returncode, done.stdout) == (130 if number == signal.SIGINT else 1, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    drill.no_traces()


def test_killed_its_etcd_ends_and_the_next_run_cleans_up(drill: Drill) -> None:
    begun, go = drill.pause()
    process = drill.start()
    await_(begun.exists)
    process.kill()
    process.communicate()
    await_(lambda: not drill.processes())
    assert drill.traces()
    go.touch()
    assert set(drill.results(drill.inv()).values()) == {"ok"}


def test_one_at_a_time_beside_other_tasks(drill: Drill) -> None:
    begun, go = drill.pause()
    process = drill.start()
    await_(begun.exists)
    second = drill.inv()
    assert second.returncode == 2
    assert f"already being done by process {process.pid}" in second.stderr
    drill.cluster.done("etcd.verify")
    go.touch()
    assert set(drill.results(_ended(process)).values()) == {"ok"}


def test_a_damaged_backup_fails(drill: Drill) -> None:
    path = drill.folder / drill.record.file
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] + bytes(100))
    drill.fails(drill.inv(), "damaged")


def test_an_etcd_that_does_not_start_is_one_line(drill: Drill) -> None:
    drill.wrap("etcd", """echo '{"msg":"it is broken","error":"by a test"}' >&2; exit 1""")
    drill.fails(drill.inv(), "etcd does not start from it: it is broken: by a test")


def test_an_etcd_that_hangs_times_out(drill: Drill) -> None:
    drill.wrap("etcd", "exec sleep 600")
    drill.fails(drill.inv("--timeout", "1"), "etcd does not start from it")


def test_a_client_that_hangs_times_out(drill: Drill) -> None:
    drill.pause()
    drill.fails(drill.inv("--timeout", "1"), "etcdctl did not end within")


def test_a_restore_that_fails_is_one_line(drill: Drill) -> None:
    drill.wrap("etcdutl", "echo no such luck >&2; exit 1")
    drill.fails(drill.inv(), "etcdutl failed: no such luck")


def test_missing_programs_are_named(drill: Drill) -> None:
    (drill.bin / "etcdutl").unlink()
    drill.fails(drill.inv(), "etcdutl not found", 2)
    drill.bin = Path("/nonexistent")
    drill.fails(drill.inv(), "etcd, etcdctl, etcdutl not found", 2)


def test_an_etcd_that_is_too_old_is_refused(drill: Drill) -> None:
    drill.replace("etcd", "echo etcd Version: 3.4.23")
    (drill.bin / "etcdutl").unlink()
    drill.fails(drill.inv(), "etcd is 3.4; 3.6 or newer is needed", 2)
    drill.replace("etcd", "echo something else")
    drill.fails(drill.inv(), "does not report its version", 2)


def test_missing_space_is_refused(drill: Drill, needs: Needs) -> None:
    with tmpfs(drill.base, "100m", needs):
        drill.fails(drill.inv(), "MiB are free, and 200 are needed", 2)


def test_a_full_disk_is_one_line(drill: Drill, needs: Needs) -> None:
    with tmpfs(drill.base, "250m", needs):
        filler = f"head -c 249M /dev/zero >{drill.base}/filler 2>/dev/null"
        drill.wrap("etcdutl", filler)
        drill.fails(drill.inv(), "etcdutl failed: ")


def test_without_the_master_key_it_is_refused(drill: Drill) -> None:
    drill.cluster.without_master()
    drill.fails(drill.inv(), "keys/master_key", 2)


def test_without_json_it_prints_a_table(drill: Drill) -> None:
    out = drill.cluster.done("etcd.drill", "--etcd-dir", str(drill.bin), "--name", drill.record.name)
    assert f"{drill.record.name} restored in" in out
    assert [drill.record.name, "revision", "ok"] in [line.split()[:3] for line in out.splitlines()]
