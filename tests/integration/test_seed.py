"""Proves the script that gives a new primary its data, with a stand-in for etcd: never over data that is there, all or
nothing wherever it is cut off, and the same again completes it. With the real programs: an alarm is no part of it.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from smallkube.etcd.status import SCRIPTS
from tests.integration.etcd import PROGRAMS, VERSIONS, full

ETCDUTL = """\
#!/bin/sh
case "$1 $3" in
version*) echo "etcdutl version: 3.6.5" ;;
"snapshot --help") echo --bump-revision ;;
*)
  [ ! -e "$0.fails" ] || { echo "disk full"; exit 1; }
  shift 2
  mkdir -p "$3/member"
  cp "$1" "$3/member/db"
  echo "$*" >"$0.asked"
  ;;
esac
"""
OTHERS = {"etcd": "#!/bin/sh\nexec sleep 60\n", "etcdctl": "#!/bin/sh\n"}
BODY = b"x" * 4096
SNAPSHOT = BODY + hashlib.sha256(BODY).digest()


@dataclass(frozen=True)
class Place:
    """A machine's folders."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "etcd"

    @property
    def mark(self) -> Path:
        return self.root / "state" / "mark"

    @property
    def program(self) -> Path:
        return self.root / "system/sw/bin/etcdutl"

    def run(
        self, what: str, stream: bytes = b"", minor: str = "3 6", snapshot: bytes = SNAPSHOT
    ) -> subprocess.CompletedProcess[str]:
        sha256 = hashlib.sha256(snapshot[:-32]).hexdigest()
        about = ["b1", self.root / "system", len(snapshot), sha256, minor] if what == "seed" else []
        argv = [str(word) for word in ("sh", "-c", SCRIPTS.text("seed"), "seed", what, self.data, self.mark, *about)]
        done = subprocess.run(argv, input=stream, capture_output=True, check=False)
        return subprocess.CompletedProcess(argv, done.returncode, done.stdout.decode(), done.stderr.decode())

    def seed(self, stream: bytes | None = None) -> str:
        done = self.run("seed", packed(SNAPSHOT) if stream is None else stream)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def failed(self, stream: bytes, reason: str, minor: str = "3 6") -> None:
        """It says why, and nothing is there that was not there before."""
        done = self.run("seed", stream, minor=minor)
        assert done.returncode == 1
        assert reason in done.stderr
        assert not self.data.exists()
        assert not list(self.root.glob("etcd.*"))
        assert self.run("look").stdout == "new\n"


def packed(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout


@pytest.fixture
def place(tmp_path: Path, needs: Callable[[str, object, str], None]) -> Place:
    needs("integration", shutil.which("zstd") and os.geteuid() == 0, "zstd, and root")
    made = Place(tmp_path)
    made.program.parent.mkdir(parents=True)
    made.program.write_text(ETCDUTL)
    made.program.chmod(0o755)
    for name, script in OTHERS.items():
        made.program.with_name(name).write_text(script)
        made.program.with_name(name).chmod(0o755)
    return made


def test_a_new_machine_gets_the_data_once(place: Place) -> None:
    assert place.run("look").stdout == "new\n"
    assert place.seed() == "seeded b1"
    assert (place.data / "member/db").read_bytes() == SNAPSHOT
    assert place.data.stat().st_mode & 0o777 == 0o700
    asked = place.program.with_name("etcdutl.asked").read_text()
    assert "--bump-revision 1000000000 --mark-compacted" in asked
    assert sorted(path.name for path in place.root.iterdir()) == ["etcd", "state", "system"]
    (place.data / "member/db").write_bytes(b"etcd went on")
    assert place.run("look").stdout == "seeded b1\n"
    assert place.seed(b"") == "seeded b1"
    assert (place.data / "member/db").read_bytes() == b"etcd went on"


def test_data_of_unknown_origin_is_never_touched(place: Place) -> None:
    (place.data / "member").mkdir(parents=True)
    assert place.run("look").stdout == "data\n"
    assert place.seed() == "data"
    assert list((place.data / "member").iterdir()) == []


def test_an_empty_folder_is_no_data(place: Place) -> None:
    place.data.mkdir()
    assert place.seed() == "seeded b1"


def test_what_a_cut_off_run_left_is_done_again(place: Place) -> None:
    place.mark.parent.mkdir()
    place.mark.write_text("b0\n")
    (place.root / "etcd.seed/data/member").mkdir(parents=True)
    assert place.run("look").stdout == "new\n"
    assert place.seed() == "seeded b1"
    assert place.run("look").stdout == "seeded b1\n"
    assert not (place.root / "etcd.seed").exists()


def test_a_stream_that_is_not_the_snapshot_is_refused(place: Place) -> None:
    place.failed(b"", "the data received")
    place.failed(packed(SNAPSHOT)[:-30], "the data received differs from what was sent")
    place.failed(packed(SNAPSHOT + bytes(1 << 20)), "the data received differs from what was sent")
    place.failed(packed(SNAPSHOT[1:]), "the data received differs from what was sent")
    place.failed(packed(b"y" + SNAPSHOT[1:]), "the data received differs from what was sent")


def test_a_failed_restore_is_reported(place: Place) -> None:
    mark = place.program.with_name("etcdutl.fails")
    mark.touch()
    place.failed(packed(SNAPSHOT), "etcdutl snapshot restore: disk full")
    mark.unlink()
    assert place.seed() == "seeded b1"


def test_an_older_etcd_is_refused(place: Place) -> None:
    place.failed(packed(SNAPSHOT), "can't read what 3.7 wrote", minor="3 7")
    place.program.write_text("#!/bin/sh\n")
    place.failed(packed(SNAPSHOT), "etcdutl not found")


def test_an_etcd_that_does_not_start_is_reported(place: Place) -> None:
    for name, script in {"etcd": "echo no such flag", "etcdctl": "exit 1"}.items():
        place.program.with_name(name).write_text(f"#!/bin/sh\n{script}\n")
    place.failed(packed(SNAPSHOT), "etcd does not start: no such flag")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_new_primary_has_no_alarm(
    version: str, place: Place, tmp_path: Path, needs: Callable[[str, object, str], None]
) -> None:
    etcd = full(version, tmp_path, needs)
    for name in PROGRAMS:
        place.program.with_name(name).unlink()
        place.program.with_name(name).symlink_to(etcd.programs / name)
    snapshot = (tmp_path / "snapshot").read_bytes()
    done = place.run("seed", packed(snapshot), version.replace(".", " "), snapshot)
    assert (done.returncode, done.stdout) == (0, "seeded b1\n"), done.stderr
    assert sorted(path.name for path in place.data.iterdir()) == ["member"]
    place.data.rename(etcd.folder / "restored")
    etcd.data = "restored"
    with etcd.running():
        assert etcd.ctl("alarm", "list").stdout == ""
        assert etcd.revision > 1_000_000_000
        etcd.ctl("put", "/registry/large", "x" * 80_000)
        assert etcd.ctl("alarm", "list").stdout == ""
