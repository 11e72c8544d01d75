"""`inv etcd.restore` on machines: what was lost is restored, key for key, and clients have to list again; whatever
fails on the way, etcd runs with one data or the other, and the same command completes it.
"""

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.etcd import like_kubernetes
from tests.lab.operating import Completed, Operator, await_

DATA = "/var/lib/etcd"
CTL = "etcdctl --endpoints unix:///run/etcd/grpc --command-timeout 10s"
WAITS = "[Service]\nExecStartPre=+/bin/sh -c 'touch /run/held; while [ ! -e /run/go ]; do sleep 0.1; done'\n"
OLD_ONLY = f"[Service]\nExecStartPre=+/bin/sh -c 'test -e {DATA}/old'\n"
"""etcd starts only with the previous data (the restored data lacks that file)."""
API = f"""\
[Unit]
ConditionPathExists=
ConditionPathExists={DATA}
[Service]
Type=oneshot
RemainAfterExit=yes
Restart=no
User=root
LoadCredential=
ExecStartPre=
ExecStart=
ExecStart=+/bin/sh -c 'test -e {DATA}/old'
ExecStartPost=
"""
"""In the place of the API server: it starts only with the previous data."""
CONFIGURATION = "/run/agenix/EncryptionConfiguration.yaml"


@dataclass(frozen=True)
class Primary:
    """node1 and its etcd, as root there sees them; ``operator`` has one backup of it."""

    operator: Operator

    def sh(self, text: str, stdin: str = "") -> str:
        return self.operator.lab.machine("node1").check("sh", "-c", text, stdin=stdin).strip()

    def there(self, path: str) -> bool:
        return self.sh(f"test -e {path} && echo yes || true") == "yes"

    def put(self, values: dict[str, bytes]) -> None:
        rows = "".join(f"put {key} {value.hex()}\n" for key, value in values.items())
        self.sh(f"while read -r word key value; do {CTL} $word $key $value; done >/dev/null", rows)

    def content(self) -> str:
        """A hash of all keys and values."""
        return self.sh(f"{CTL} get '' --from-key | sha256sum")

    @property
    def revision(self) -> int:
        status = json.loads(self.sh(f"{CTL} endpoint status --write-out json"))[0]["Status"]
        return int(status["header"]["revision"])

    @property
    def process(self) -> str:
        return self.sh("systemctl show --property MainPID --value etcd")

    @property
    def state(self) -> tuple[str, str, str]:
        """What a restore that changed nothing leaves as it is: the process, the data, the folders."""
        return self.process, self.content(), self.folders()

    def folders(self) -> str:
        return self.sh(f"cd /var/lib; ls -d etcd*; stat -c '%U %a' {DATA}")

    @contextmanager
    def drop_in(self, unit: str, text: str) -> Iterator[None]:
        folder = f"/run/systemd/system/{unit}.service.d"
        self.sh(f"mkdir -p {folder}; cat >{folder}/test.conf; systemctl daemon-reload; rm -f /run/held /run/go", text)
        try:
            yield
        finally:
            self.sh(f"rm -f {folder}/test.conf; systemctl daemon-reload; touch /run/go")

    def restore(self, *words: str, status: int = 0) -> Completed:
        done = self.operator.inv("etcd.restore", "--yes", *words)
        assert done.returncode == status, done.stderr + done.stdout
        return done

    def refused(self, reason: str, *words: str, status: int = 1) -> None:
        """The last line has the reason, and nothing was changed."""
        before = self.state
        done = self.restore(*words, status=status)
        assert reason in done.stderr.splitlines()[-1], done.stderr
        assert self.state == before

    def restored(self, *words: str) -> str:
        """A restore that must succeed; where the previous data is."""
        report: dict[str, Any] = json.loads(self.restore("--json", *words).stdout)
        assert report["bumped"] is True
        assert report["unrestarted"] == {}
        return str(report["previous"])

    def await_held(self) -> None:
        await_("etcd's start", lambda: self.there("/run/held"))

    def await_end(self) -> None:
        state = "systemctl is-active smallkube-etcd-restore || true"
        await_("the end of the swap", lambda: self.sh(state) == "inactive")

    def cut_connections(self) -> bool:
        """End each SSH session that is open on the machine; whether there was one."""
        return self.sh("pkill --signal KILL --exact sshd-session && echo cut || true") == "cut"


@pytest.fixture(scope="module")
def backed_up(deployed: Operator) -> Primary:
    primary = Primary(deployed)
    # What restores of other tests left: they share these machines, in any order.
    primary.sh(f"rm -rf {DATA}.before-*")
    primary.put(like_kubernetes(count=5, size=40))
    deployed.done("etcd.backup")
    return primary


@pytest.fixture
def primary(backed_up: Primary) -> Iterator[Primary]:
    """etcd with the data of the backup, and ``old``, a file that only this data directory has."""
    backed_up.sh(f"touch {DATA}/old")
    yield backed_up
    backed_up.sh(f"rm -rf {DATA}.before-* /run/held /run/go; systemctl reset-failed; systemctl start etcd")
    assert backed_up.sh(f"ls -d {DATA}*") == DATA


def test_destroyed_data_is_restored(primary: Primary) -> None:
    content, revision = primary.content(), primary.revision
    primary.sh(f"systemctl stop etcd; rm -rf {DATA}/member")
    old = primary.restored()
    assert primary.content() == content
    assert primary.revision >= 1_000_000_000
    assert primary.folders() == f"{Path(DATA).name}\n{Path(old).name}\netcd 700"
    watched = primary.sh(f"timeout 20 {CTL} watch --prefix /registry --rev {revision} 2>&1 || true")
    assert "required revision has been compacted" in watched
    primary.operator.done("etcd.status", "--json")
    primary.operator.done("deploy.status", "--node", "node1")


def test_data_newer_than_the_backup_is_kept(primary: Primary) -> None:
    content = primary.content()
    primary.put({"/registry/later": b"1"})
    assert primary.content() != content
    done = primary.restore()
    assert primary.content() == content
    (old,) = primary.sh(f"ls -d {DATA}.before-*").splitlines()
    assert f"rm -rf {old}" in done.stderr
    assert primary.there(f"{old}/old")


def test_dry_run_prints_the_steps(primary: Primary) -> None:
    before = primary.state
    steps = json.loads(primary.operator.done("etcd.restore", "--dry-run", "--json"))
    assert "node1, node2" in steps[-1]
    assert primary.operator.inv("etcd.restore").returncode == 2
    assert primary.state == before


def test_rollback_when_etcd_does_not_start(primary: Primary) -> None:
    content, revision, folders = primary.content(), primary.revision, primary.folders()
    with primary.drop_in("etcd", OLD_ONLY):
        done = primary.restore("--timeout", "10", status=1)
    last = done.stderr.splitlines()[-1]
    assert "etcd does not start: rolled back; the previous data is served again" in last
    assert (primary.content(), primary.revision, primary.folders()) == (content, revision, folders)
    assert primary.there(f"{DATA}/old")


def test_rollback_when_the_api_server_does_not_start(primary: Primary) -> None:
    content, revision, folders = primary.content(), primary.revision, primary.folders()
    with primary.drop_in("kube-apiserver", API):
        primary.sh("systemctl start kube-apiserver")
        done = primary.restore("--timeout", "10", status=1)
        assert primary.sh("systemctl is-active kube-apiserver") == "active"
        primary.sh("systemctl stop kube-apiserver")
    assert "the API server does not start: rolled back" in done.stderr.splitlines()[-1]
    assert (primary.content(), primary.revision, primary.folders()) == (content, revision, folders)


def test_etcd_starts_with_neither_data(primary: Primary) -> None:
    content = primary.content()
    with primary.drop_in("etcd", "[Service]\nExecStartPre=+/bin/false\n"):
        done = primary.restore("--timeout", "5", status=1)
    assert "etcd or the API server does not run" in done.stderr.splitlines()[-1]
    assert primary.there(f"{DATA}/old")
    primary.sh("systemctl reset-failed etcd; systemctl start etcd")
    assert primary.content() == content


def test_a_lost_connection_changes_nothing(primary: Primary) -> None:
    content = primary.content()
    with primary.drop_in("etcd", WAITS):
        process = primary.operator.start("etcd.restore", "--yes", "--json")
        primary.await_held()
        # Who waits for the swap opens one for each question.
        await_("a connection", primary.cut_connections)
        primary.sh("touch /run/go")
        done = primary.operator.end(process)
    assert done.returncode == 0, done.stderr
    assert primary.content() == content
    assert primary.revision >= 1_000_000_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_killed_task_the_primary_completes_it(number: signal.Signals, primary: Primary) -> None:
    content = primary.content()
    with primary.drop_in("etcd", WAITS):
        process = primary.operator.start("etcd.restore", "--yes")
        primary.await_held()
        process.send_signal(number)
        assert "Traceback" not in primary.operator.end(process).stderr
        again = primary.restore(status=1)
        assert "nothing was changed: another restore is in progress" in again.stderr.splitlines()[-1]
        primary.sh("touch /run/go")
        primary.await_end()
    await_("etcd", lambda: primary.sh("systemctl is-active etcd || true") == "active")
    assert primary.content() == content
    assert primary.revision >= 1_000_000_000
    primary.restored()


SLOW = """\
#!/bin/sh
case "$1 $2" in "snapshot restore") [ "$4" = --help ] || [ "$3" = --help ] || { touch /run/held; sleep 600; } ;; esac
exec etcdutl.real "$@"
"""


@contextmanager
def etcdutl(primary: Primary, script: str) -> Iterator[None]:
    """Another program in the place of etcdutl."""
    place = "$(readlink -f $(command -v etcdutl))"
    primary.sh(
        f"p={place}; mv $p $p.real; cat >$p; chmod 755 $p; rm -f /run/held", script.replace("etcdutl.real", "$0.real")
    )
    try:
        yield
    finally:
        primary.sh("p=$(readlink -f $(command -v etcdutl)); mv $p.real $p")


def test_interrupted_preparation_changes_nothing(primary: Primary) -> None:
    before = primary.process, primary.content()
    with etcdutl(primary, SLOW):
        process = primary.operator.start("etcd.restore", "--yes")
        primary.await_held()
        process.kill()
        primary.operator.end(process)
        primary.cut_connections()
        primary.sh("pkill -9 -x etcdutl; pkill -9 -f '^sleep 600$'; true")
    await_("its end", lambda: not primary.sh("pgrep -f '[r]estore.sh|[s]leep 600' || true"))
    assert (primary.process, primary.content()) == before
    primary.restored()
    assert primary.content() == before[1]


def test_a_failing_restore_is_reported_and_leaves_nothing(primary: Primary) -> None:
    fails = '#!/bin/sh\ncase "$*" in *--data-dir*) echo disk full >&2; exit 1 ;; esac\nexec etcdutl.real "$@"\n'
    with etcdutl(primary, fails):
        primary.refused("nothing was changed: etcdutl snapshot restore: disk full")


def test_an_older_etcd_on_the_primary_is_refused(primary: Primary) -> None:
    with etcdutl(primary, "#!/bin/sh\necho etcdutl version: 3.4.0\n"):
        primary.refused("etcd 3.4 is installed, and can't read what 3.5 wrote")


def test_two_operators_at_once(primary: Primary, tmp_path: Path) -> None:
    shutil.copytree(primary.operator.root, tmp_path / "other")
    other = Operator(primary.operator.lab, tmp_path / "other")
    with primary.drop_in("etcd", WAITS):
        process = primary.operator.start("etcd.restore", "--yes", "--json")
        primary.await_held()
        second = other.inv("etcd.restore", "--yes")
        assert second.returncode == 1
        assert "nothing was changed: another restore is in progress" in second.stderr.splitlines()[-1]
        primary.sh("touch /run/go")
        assert primary.operator.end(process).returncode == 0


def test_a_power_cut_during_the_swap_leaves_etcd_with_data(primary: Primary) -> None:
    content = primary.content()
    with primary.drop_in("etcd", WAITS):
        process = primary.operator.start("etcd.restore", "--yes")
        primary.await_held()
        restarted = threading.Thread(target=primary.operator.restart, args=("node1",))
        restarted.start()
        done = primary.operator.end(process)
        restarted.join()
    assert done.returncode == 1
    assert "the restore was interrupted, as by a restart of the machine" in done.stderr.splitlines()[-1]
    await_("etcd", lambda: primary.sh("systemctl is-active etcd || true") == "active")
    assert primary.content() == content
    primary.restored()
    assert primary.content() == content


def test_missing_space_on_the_primary_is_refused(primary: Primary) -> None:
    move = "systemctl stop etcd; mkdir /run/small; mount -t tmpfs -o size=190m tmpfs /run/small"
    primary.sh(f"{move}; cp -a /var/lib/etcd /run/small/; mount --bind /run/small /var/lib; systemctl start etcd")
    try:
        primary.refused("MiB free, and 200 are needed")
    finally:
        primary.sh("systemctl stop etcd; umount /var/lib /run/small; rmdir /run/small; systemctl start etcd")


def test_an_unreachable_worker_is_named(primary: Primary) -> None:
    file = primary.operator.workspace.inventory_file
    before, content = file.read_text(), primary.content()
    document = json.loads(json.dumps(_yaml(before)))
    document["nodes"]["node2"]["ssh"]["port"] = 1
    file.write_text(json.dumps(document))
    try:
        done = primary.restore("--json", status=1)
    finally:
        file.write_text(before)
    assert json.loads(done.stdout)["unrestarted"].keys() == {"node2"}
    assert "restored, but kubelet, kube-proxy and CoreDNS were not restarted: node2: " in done.stderr.splitlines()[-1]
    assert primary.content() == content


def _yaml(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


def test_a_missing_encryption_key_is_named(primary: Primary) -> None:
    file = f"$(readlink -f {CONFIGURATION})"
    primary.sh(f"f={file}; cp -a $f /run/kept; sed -i 's/secret:.*/secret: b3RoZXI=/' $f")
    try:
        primary.refused("the API server does not have the encryption key key")
        primary.restored("--without-encryption-key")
    finally:
        primary.sh(f"cat /run/kept >{file}; rm /run/kept")


def test_status_shows_alarms_and_a_stopped_etcd(primary: Primary) -> None:
    found = json.loads(primary.operator.done("etcd.status", "--json"))
    assert found["revision"] == primary.revision
    assert (found["leader"], found["alarms"], found["problems"]) == (True, [], [])
    with primary.drop_in("etcd", "[Service]\nEnvironment=ETCD_QUOTA_BACKEND_BYTES=16384\n"):
        primary.sh(f"systemctl restart etcd; {CTL} put /registry/x y 2>&1 || true")
        alarmed = primary.operator.inv("etcd.status")
    assert (alarmed.returncode, "alarm NOSPACE" in alarmed.stderr) == (1, True), alarmed.stderr
    primary.sh(f"systemctl restart etcd; {CTL} alarm disarm")
    primary.sh("systemctl stop etcd")
    down = primary.operator.inv("etcd.status", "--timeout", "2")
    primary.sh("systemctl start etcd")
    assert (down.returncode, down.stdout, len(down.stderr.splitlines())) == (1, "", 1), down.stderr
    assert "etcd does not answer" in down.stderr
    assert primary.operator.inv("etcd.status").returncode == 0
