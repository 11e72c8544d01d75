"""Records of backups detect every change of themselves; what cron, systemd and monitors are given."""

import dataclasses
import hashlib
import io
import json
import os
import random
import socketserver
import threading
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.etcd import backup, catalog, copies, drill, notify, schedule, signature, status, verify
from smallkube.etcd.record import EncryptionKey, Record, Snapshot, dump, parse
from smallkube.etcd.stream import encrypt, verify_backup
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.sections import Keep
from smallkube.remote import scripts
from smallkube.remote.sftp import PART, Destination, Folder
from smallkube.secrets import age
from tests.unit.test_etcd_retention import START, record

FULL = dataclasses.replace(
    record(3, START),
    keys=7,
    prefixes={"/registry/pods": 4, "/registry/secrets": 3},
    kubernetes="v1.34.2",
    encryption_keys=(EncryptionKey("key1", "a" * 64),),
)


def test_a_record_is_read_as_it_was_written() -> None:
    assert parse(dump(FULL), "x") == dataclasses.replace(FULL, signed=False)


def test_every_flipped_bit_of_a_record_is_detected() -> None:
    text = dump(FULL).encode()
    chooser = random.Random(1)
    for _ in range(500):
        position, bit = chooser.randrange(len(text)), chooser.randrange(8)
        flipped = text[:position] + bytes([text[position] ^ 1 << bit]) + text[position + 1 :]
        try:
            found = parse(flipped, "x")
        except SmallkubeError as error:
            assert "x: damaged" in str(error)
        else:
            assert found == dataclasses.replace(
                FULL, signed=False
            )  # white space between values, or the same letter in the other case


def test_a_record_of_an_unknown_format_is_refused() -> None:
    text = dump(FULL).replace('"format": 2', '"format": 9')
    with pytest.raises(SmallkubeError, match="x: damaged: wrong checksum"):
        parse(text, "x")


KEY = Ed25519PrivateKey.generate()
ACCEPTED = (signature.public(KEY),)


def put(folder: Path, sequence: int, *, size: int = 700) -> str:
    one = signature.sign(record(sequence, START), KEY)
    (folder / one.file).write_bytes(bytes(size))
    catalog.write_record(folder, one)
    return one.name


def test_the_catalog_has_only_complete_backups(tmp_path: Path) -> None:
    good, short = put(tmp_path, 1), put(tmp_path, 2, size=699)
    gone = put(tmp_path, 3)
    (tmp_path / f"{gone}.db.zst.age").unlink()
    (tmp_path / "stray.db.zst.age").write_bytes(b"")
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "other.json").write_text(dump(record(9, START)))
    there = catalog.read(tmp_path, ACCEPTED)
    assert [each.name for each in there.records] == [good]
    assert there.faults.keys() == {short, gone, "stray", "empty", "other"}
    assert "699 bytes instead of 700" in there.faults[short]
    assert there.find(None).name == good == there.find(f"some/where/{good}.db.zst.age").name


TEXTS = st.text(max_size=5)
OTHER = {"size": st.integers(0, 99), "revision": st.integers(50, 99), "cluster": TEXTS}
OTHER |= {"snapshot_sha256": st.from_regex("[1-9a-f][0-9a-f]{63}", fullmatch=True)}
OTHER |= {"sequence": st.integers(50, 99), "recipient": TEXTS, "stored_sha256": TEXTS, "keys": st.none()}
OTHER |= {"further_recipients": st.tuples(TEXTS)}


@given(st.sampled_from(sorted(OTHER)).flatmap(lambda name: st.tuples(st.just(name), OTHER[name])))
def test_a_changed_field_invalidates_the_signature(change: tuple[str, Any]) -> None:
    signed = signature.sign(FULL, KEY)
    assert signature.is_signed(parse(dump(signed), "x"), ACCEPTED)
    forged = dataclasses.replace(signed, **dict([change]))
    with pytest.raises(ValueError, match="signature does not match"):
        signature.is_signed(parse(dump(forged), "x"), ACCEPTED)


def test_verification_may_be_noted_after_signing() -> None:
    noted = dataclasses.replace(signature.sign(FULL, KEY), verified="2026-02-01T00:00:00Z", problem="none")
    assert signature.is_signed(parse(dump(noted), "x"), ACCEPTED)


def test_a_backup_is_for_every_administrator(tmp_path: Path) -> None:
    texts, recipients = zip(*(age.new_identity() for _ in range(3)), strict=True)
    data = bytes(512)
    stream = zstandard.ZstdCompressor().compress(data + hashlib.sha256(data).digest())
    known = dataclasses.replace(record(1, START), recipient=recipients[0], further_recipients=recipients[1:2])
    stored = encrypt(io.BytesIO(stream), tmp_path / known.file, known.recipients)
    facts: dict[str, Any] = {"stored_size": stored.size, "stored_sha256": stored.sha256}
    known = dataclasses.replace(known, **facts, snapshot_sha256=hashlib.sha256(data).hexdigest())
    catalog.write_record(tmp_path, signature.sign(known, KEY))
    for text, verified in zip(texts, ("snapshot", "snapshot", "ciphertext"), strict=True):
        (check,) = verify.verify(catalog.read(tmp_path, ACCEPTED), [], age.parse_master(text, "m"), str)
        assert (check.check, check.result) == (verified, "ok" if verified == "snapshot" else "warning")
    assert check.detail.startswith(f"encrypted to {recipients[0]}, {recipients[1]}, not to m; ")


def test_a_record_for_one_is_as_earlier_versions_had_it() -> None:
    assert "further_recipients" not in dump(FULL)
    several = dataclasses.replace(FULL, further_recipients=("age1y",))
    assert parse(dump(several), "x").recipients == (FULL.recipient, "age1y")


@pytest.mark.parametrize("signer", [None, Ed25519PrivateKey.generate()])
def test_a_forged_backup_is_no_default(signer: Ed25519PrivateKey | None, tmp_path: Path) -> None:
    """Encrypted with the public key alone; also one for another recipient."""
    (text, recipient), (_, other) = age.new_identity(), age.new_identity()
    data = bytes(512)
    stream = zstandard.ZstdCompressor().compress(data + hashlib.sha256(data).digest())
    good = put(tmp_path, 1)
    for sequence, each in ((8, recipient), (9, other)):
        forged = dataclasses.replace(record(sequence, START), recipient=each, signed=True)
        stored = encrypt(io.BytesIO(stream), tmp_path / forged.file, [each])
        facts: dict[str, Any] = {"stored_size": stored.size, "stored_sha256": stored.sha256, "size": 544}
        forged = dataclasses.replace(forged, **facts, snapshot_sha256=hashlib.sha256(data).hexdigest())
        catalog.write_record(tmp_path, signature.sign(forged, signer) if signer else forged)
    there = catalog.read(tmp_path, ACCEPTED)
    assert there.find(None).name == good
    checks = verify.verify(there, ["b8", "b9"], age.parse_master(text, "m"), str)
    assert [(one.check, one.result) for one in checks] == [("snapshot", "warning"), ("ciphertext", "warning")]
    assert all(("unknown key" if signer else "unsigned") in one.detail for one in checks)
    assert catalog.read(tmp_path, ACCEPTED).find(None).name == good


@pytest.mark.parametrize("suffix", [".json", ".db.zst.age"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_a_fault(make: Callable[[Path], None], suffix: str, tmp_path: Path) -> None:
    good = put(tmp_path, 1)
    make(tmp_path / f"strange{suffix}")
    there = catalog.read(tmp_path, ACCEPTED)
    assert (there.find(None).name, list(there.faults)) == (good, ["strange"])
    if make is Path.mkdir:
        with pytest.raises(SmallkubeError, match="can't be removed"):
            there.remove("strange")


def test_a_record_with_a_wrong_signature_is_a_fault(tmp_path: Path) -> None:
    name = put(tmp_path, 1)
    found = catalog.read(tmp_path, ACCEPTED).records[0]
    catalog.write_record(tmp_path, dataclasses.replace(found, revision=10**9))
    there = catalog.read(tmp_path, ACCEPTED)
    assert there.faults == {name: "its record: its signature does not match"}
    with pytest.raises(UsageError, match="no backup found"):
        there.find(None)


def test_a_record_of_the_previous_format_is_usable(tmp_path: Path) -> None:
    content = json.loads(dump(record(4, START)))
    for name in ("alarms", "signer", "signature", "checksum"):
        del content[name]
    content["format"] = 1
    content["checksum"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (tmp_path / "b4.json").write_text(json.dumps(content))
    (tmp_path / "b4.db.zst.age").write_bytes(bytes(700))
    there = catalog.read(tmp_path, ACCEPTED)
    assert there.find("b4").state == "unsigned"
    with pytest.raises(UsageError, match="no signed backup found, and 1 unsigned"):
        there.find(None)


class Shared:
    """A folder at a destination that two operators share, in memory; the connection breaks after ``left`` changes."""

    def __init__(self, *records: Record) -> None:
        self.files = {one.record_file: dump(one).encode() for one in records} | {"notes.json": b"[]"}
        self.files |= {one.file: bytes(one.stored_size) for one in records}
        self.left = 1000

    def sizes(self) -> dict[str, int]:
        return {name: len(data) for name, data in self.files.items()}

    def read(self, name: str, most: int) -> bytes:
        return self.files[name][:most]

    def remove(self, name: str) -> None:
        self._change()
        del self.files[name]

    def write(self, name: str, source: Path, mark: str) -> str:
        for part in (b"half", data := source.read_bytes()):
            self._change()
            self.files[name + mark + PART] = part
        self._change()
        self.files[name] = self.files.pop(name + mark + PART)
        return hashlib.sha256(data).hexdigest()

    def _change(self) -> None:
        if not self.left:
            raise SmallkubeError("connection lost")
        self.left -= 1


def test_retention_elsewhere_spares_other_operators(tmp_path: Path) -> None:
    other = Ed25519PrivateKey.generate()
    ours = [signature.sign(record(n, START), KEY) for n in (1, 2, 3)]
    theirs = [dataclasses.replace(record(n, START), name=f"c{n}", signed=False) for n in (1, 2, 3, 4)]
    theirs[1:] = [signature.sign(one, other) for one in theirs[1:]]
    there = Shared(*ours, *theirs)
    existing = catalog.Catalog(tmp_path, (ours[2], theirs[3]), {})
    gone, others = copies.prune(cast(Folder, there), existing, KEEP_ONE, ACCEPTED)
    assert sorted(gone) == ["b1", "b2"]
    assert {one.file for one in (ours[2], *theirs)} <= there.files.keys()
    assert set(others) == {"notes.json", *(name for one in theirs[:3] for name in (one.file, one.record_file))}


KEEP_ONE = Keep(last=1, daily=0, weekly=0, monthly=0)


def test_an_interrupted_copy_leaves_nothing_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the connection breaks, and although the backup is gone here when the next one is copied."""
    workspace, here = Workspace(tmp_path), tmp_path / "backups"
    here.mkdir()
    monkeypatch.setattr(signature, "signing_key", lambda _: KEY)

    def copy(there: Shared, sequence: int, left: int) -> copies.Copied:
        for file in here.iterdir():
            file.unlink()
        data = bytes([sequence]) * 700
        stored = hashlib.sha256(data).hexdigest()
        one = signature.sign(dataclasses.replace(record(sequence, START), stored_sha256=stored), KEY)
        (here / one.file).write_bytes(data)
        catalog.write_record(here, one)
        there.left = left
        monkeypatch.setattr(copies, "folder", lambda *_: nullcontext(there))
        return copies.copy(workspace, catalog.read(here, ACCEPTED), "sftp://u@h/d", KEEP_ONE, str)

    foreign = {"notes.json": b"[]", "b7.db.zst.age.0badcafe.part": b"another operator's", "b8.db.zst.age": b""}
    for left in range(100):
        there = Shared()
        there.files |= foreign
        copy(there, 1, 1000)
        broken = copy(there, 2, left)
        done = copy(there, 3, 1000)
        assert (done.error, done.others) == ("", tuple(sorted(foreign)))
        assert there.files == foreign | {file.name: file.read_bytes() for file in here.iterdir()}
        if not broken.error:
            break
    assert 6 < left < 20


@pytest.mark.parametrize("renamed", [False, True])
def test_what_a_killed_backup_left_is_removed(renamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, half = put(tmp_path, 1), put(tmp_path, 2)
    catalog.write_record(tmp_path, dataclasses.replace(catalog.read(tmp_path, ACCEPTED).find(half), verified=None))
    if not renamed:
        (tmp_path / f"{half}.db.zst.age").rename(tmp_path / ".tmp-2.db.zst.age")
    there = catalog.read(tmp_path, ACCEPTED)
    assert ([one.name for one in there.records], there.faults) == ([good], {})
    monkeypatch.setattr(catalog, "folder_of", lambda _: tmp_path)
    monkeypatch.setattr(catalog, "of", lambda _: catalog.read(tmp_path, ACCEPTED))
    with backup.locked(cast(Cluster, None)):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", f"{good}.db.zst.age", f"{good}.json"]


def test_only_what_was_a_backup_is_unsound(tmp_path: Path) -> None:
    damaged, cut = "demo-20260101T031700Z-7-0a1b2c3d", "demo-20260101T031700Z-8"
    (tmp_path / f"{damaged}.json").write_text("{}")
    (tmp_path / f"{cut}.json").write_text("")
    (tmp_path / "renamed.db.zst.age").write_bytes(b"")
    for name in ("package", "notes-2026", "b1 (copy)"):
        (tmp_path / f"{name}.json").write_text("{}")
    (tmp_path / "large.json").write_bytes(b"[" * (2 << 20))
    there = catalog.read(tmp_path, ACCEPTED)
    assert set(there.unsound) == {damaged, cut, "renamed"}
    assert there.faults.keys() - set(there.unsound) == {"package", "notes-2026", "b1 (copy)", "large"}


WRONG = {"sequence": "x", "created": "2026-01-01", "etcd": "3", "keys": [1], "prefixes": {"a": "b"}, "surplus": 1}


@pytest.mark.parametrize("name", WRONG)
def test_a_record_of_other_types_is_damaged(name: str) -> None:
    content = {**json.loads(dump(FULL)), name: WRONG[name]}
    del content["checksum"]
    content["checksum"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    with pytest.raises(SmallkubeError, match="x: damaged: not a record of a backup"):
        parse(json.dumps(content), "x")


def test_an_unknown_name_is_a_usage_error(tmp_path: Path) -> None:
    there = catalog.read(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"inv etcd\.backup takes one"):
        there.find(None)
    with pytest.raises(UsageError, match="no backup b7"):
        there.find("b7")


REPORTED = {
    "size": 24608,
    "snapshot_sha256": "89eb7b03223c6e9471c514e306ea7d323c608695346687a1f5b6626b73f0a325",
    "revision": 36,
    "etcd": "3.6.6",
    "keys": 35,
    "prefixes": {"/registry/pods": 30, "/registry/secrets": 5},
    "kubernetes": "v1.34.2",
    "encryption_keys": [{"name": "key1", "sha256": "35d95694d3f160215db293c7899daa5907837838fb4b8119ed713e32446c1266"}],
    "alarms": ["NOSPACE"],
}


def reported(**changes: Any) -> Snapshot:
    return scripts.parse(json.dumps({**REPORTED, **changes}), Snapshot, "snapshot", "node1")


def test_the_report_of_the_primary_is_parsed() -> None:
    found = reported()
    assert (found.size, found.revision, found.etcd, found.keys) == (24608, 36, "3.6.6", 35)
    assert found.prefixes == {"/registry/pods": 30, "/registry/secrets": 5}
    assert [key.name for key in found.encryption_keys] == ["key1"]
    assert found.alarms == ("NOSPACE",)


@pytest.mark.parametrize(
    "damage",
    [
        {"size": ""},
        {"size": "x"},
        {"snapshot_sha256": "89"},
        {"etcd": ""},
        {"revision": "-"},
        {"prefixes": 3},
        {"encryption_keys": [{"name": "key1", "sha256": "35\n"}]},
        {"alarms": ["x"]},
    ],
)
def test_an_impossible_report_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(SmallkubeError, match="node1: unexpected output from snapshot"):
        reported(**damage)


def test_a_count_that_etcd_could_not_make_is_unknown() -> None:
    found = reported(keys=None, prefixes=None)
    assert found.keys is None is found.prefixes


def test_a_damaged_backup_and_one_for_another_master(tmp_path: Path) -> None:
    (text, recipient), (other, _) = age.new_identity(), age.new_identity()
    path, master = tmp_path / "backup", age.parse_master(text, "keys/master_key")
    encrypt(io.BytesIO(b"x"), path, [recipient])
    with pytest.raises(SmallkubeError, match="keys/master_key can't open it"):
        verify_backup(path, age.parse_master(other, "keys/master_key"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SmallkubeError, match="damaged: its contents don't pass age's verification"):
        verify_backup(path, master)
    path.unlink()
    with pytest.raises(SmallkubeError, match="can't be read"):
        verify_backup(path, master)


BOMB = zstandard.ZstdCompressor().compress(bytes(256 << 20))


def test_no_more_is_received_than_was_announced(tmp_path: Path) -> None:
    receiver = backup.SnapshotReceiver("node1", tmp_path / "backup", [age.new_identity()[1]], None)
    with pytest.raises(SmallkubeError, match=r"node1: damaged: it has more than 24608 bytes"):
        for data in (json.dumps(REPORTED).encode() + b"\n", *([BOMB] * 1000)):
            receiver.write(data)
    receiver.abandon()
    assert not list(tmp_path.iterdir())


def test_a_drill_writes_no_more_than_was_recorded(tmp_path: Path) -> None:
    text, recipient = age.new_identity()
    encrypt(io.BytesIO(BOMB), tmp_path / FULL.file, [recipient])
    there = catalog.Catalog(tmp_path, (FULL,), {})
    with pytest.raises(SmallkubeError, match=r"damaged: it has more than 544 bytes"):
        drill.drill(there, FULL, age.parse_master(text, "m"), {}, tmp_path / "drill", 1, str)


@pytest.mark.parametrize(
    ("recorded", "found", "result"),
    [(0, 1, "ok"), (1, 1, "ok"), (0, 2, "failed"), (1, 2, "failed"), (2, 1, "failed"), (36, 36, "ok")],
)
def test_a_drill_compares_revisions_from_one_on(recorded: int, found: int, result: str) -> None:
    taken = dataclasses.replace(FULL, revision=recorded)
    checks = {one.check: one.result for one in drill.compare(taken, drill.Contents(found, FULL.prefixes or {}, 0, {}))}
    assert checks.pop("revision") == result
    assert set(checks.values()) == {"ok"}


def test_an_etcd_status_may_lack_what_is_zero() -> None:
    header = {"cluster_id": 1, "member_id": 7, "revision": 1}
    reply = [{"Status": {"header": header, "version": "3.6.6", "dbSize": 28672, "dbSizeInUse": 20480}}]
    found = status.parse(json.dumps(reply), "")
    assert (found.revision, found.term, found.index) == (1, 0, 0)
    assert list(status.problems(found)) == ["etcd has no leader"]


def test_metrics_have_the_newest_backup_also_after_a_failure() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    text = notify.metrics("demo", False, now, 1.5, catalog.Catalog(Path(), (FULL,), {}))
    assert 'smallkube_etcd_backup_success{cluster="demo"} 0\n' in text
    assert f'last_success_timestamp_seconds{{cluster="demo"}} {int(START.timestamp())}\n' in text
    assert text.count("# TYPE") == 8
    assert "last_success" not in notify.metrics("demo", False, now, 1.5, catalog.Catalog(Path(), (), {}))


ANSWERS = {
    "/check?status=up": (b"HTTP/1.0 200 OK\r\n\r\n", ""),
    "/nonsense": (b"\0\0\0\r\n", "BadStatusLine"),
    "/closed": (b"", "closed connection"),
    "/again": (b"HTTP/1.0 302 Found\r\nLocation: /again\r\n\r\n", "redirect"),
    "/file": (b"HTTP/1.0 302 Found\r\nLocation: file:///etc/hostname\r\n\r\n", "not allowed"),
}


@pytest.mark.parametrize("path", ANSWERS)
def test_each_answer_of_a_monitor_is_one_line(path: str, capfd: pytest.CaptureFixture[str]) -> None:
    answer, reason = ANSWERS[path]
    asked = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline().split()[1].decode())
            while self.rfile.readline().strip():
                pass
            self.wfile.write(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}{path}"
        for good in (True, False):
            failed = notify.ping(url, good=good)
            assert (reason in failed, len(failed.splitlines())) == (True, bool(reason)), failed
        server.shutdown()
    assert capfd.readouterr().err == ""
    assert (asked[0], asked[-1]) == (path, "/check/fail?status=up" if "?" in path else asked[-1])


@pytest.mark.parametrize("url", ["sftp://h/p", "sftp://u@h", "sftp://u@h/", "sftp://u:pw@h/p", "sftp://u@h:x/p"])
def test_an_unusable_destination_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match=r"cluster\.backup\.copy_to") as caught:
        Destination.parse(url)
    assert "pw" not in str(caught.value)


def test_a_destination_is_parsed() -> None:
    assert Destination.parse("sftp://me@[fd00::1]:2222/a/b%20c/") == Destination("me", "fd00::1", 2222, "/a/b c")
    assert str(Destination.parse("sftp://me@host/a")) == "sftp://me@host/a"


@pytest.mark.parametrize("text", ["", "24:00", "3", "03:60", "aa:bb", "٣:١٧"])
def test_an_invalid_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected HH:MM"):
        schedule.entries(("inv",), Path("/w"), text)


@given(st.from_regex(r"/[ -~]{1,20}", fullmatch=True).filter(lambda text: "\0" not in text))
def test_percent_signs_are_escaped_for_cron_and_systemd(folder: str) -> None:
    texts = schedule.entries(("/v/inv", "-r", "/r", "etcd.backup"), Path(folder), "03:17")
    assert "%" not in texts["crontab"].replace("\\%", "")
    assert texts["crontab"].startswith("17 3 * * * env PATH=")
    assert "%" not in texts["smallkube-etcd-backup.service"].replace("%%", "")
