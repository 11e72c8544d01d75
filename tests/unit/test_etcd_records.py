"""Records of backups detect every change of themselves; what cron, systemd and monitors are given."""

import dataclasses
import io
import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.etcd import catalog, drill, notify, schedule, status
from smallkube.etcd.record import EncryptionKey, Snapshot, dump, parse, parse_snapshot
from smallkube.etcd.stream import encrypt, verify_backup
from smallkube.remote.sftp import Destination
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
    assert parse(dump(FULL), "x") == FULL


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
            assert found == FULL  # white space between values, or the same letter in the other case


def test_a_record_of_an_unknown_format_is_refused() -> None:
    text = dump(FULL).replace('"format": 1', '"format": 9')
    with pytest.raises(SmallkubeError, match="x: damaged: wrong checksum"):
        parse(text, "x")


def put(folder: Path, sequence: int, *, size: int = 700) -> str:
    one = record(sequence, START)
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
    there = catalog.read(tmp_path)
    assert [each.name for each in there.records] == [good]
    assert there.faults.keys() == {short, gone, "stray", "empty", "other"}
    assert "699 bytes instead of 700" in there.faults[short]
    assert there.find(None).name == good == there.find(f"some/where/{good}.db.zst.age").name


def test_an_unknown_name_is_a_usage_error(tmp_path: Path) -> None:
    there = catalog.read(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"inv etcd\.backup takes one"):
        there.find(None)
    with pytest.raises(UsageError, match="no backup b7"):
        there.find("b7")


REPORTED = {
    "size": 24608,
    "sha256": "89eb7b03223c6e9471c514e306ea7d323c608695346687a1f5b6626b73f0a325",
    "revision": 36,
    "etcd": "3.6.6",
    "prefixes": ["     30 /registry/pods", "      5 /registry/secrets"],
    "kubernetes": "v1.34.2",
    "encryption_keys": ["35d95694d3f160215db293c7899daa5907837838fb4b8119ed713e32446c1266 key1"],
    "alarms": ["NOSPACE"],
}


def reported(**changes: Any) -> Snapshot:
    text = json.dumps({**REPORTED, **changes})
    return status.parse_output("snapshot", text, parse_snapshot, "node1")


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
        {"sha256": "89"},
        {"etcd": ""},
        {"revision": "-"},
        {"prefixes": 3},
        {"alarms": ["x"]},
    ],
)
def test_an_impossible_report_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(SmallkubeError, match="node1: unexpected output from snapshot"):
        reported(**damage)


def test_a_count_that_etcd_could_not_make_is_unknown() -> None:
    found = reported(prefixes=None)
    assert found.keys is None is found.prefixes


def test_a_damaged_backup_and_one_for_another_master(tmp_path: Path) -> None:
    (text, recipient), (other, _) = age.new_identity(), age.new_identity()
    path, master = tmp_path / "backup", age.parse_master(text, "m")
    encrypt(io.BytesIO(b"x"), path, recipient)
    with pytest.raises(SmallkubeError, match="keys/master_key can't open it"):
        verify_backup(path, age.parse_master(other, "m"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SmallkubeError, match="damaged: its contents don't pass age's verification"):
        verify_backup(path, master)
    path.unlink()
    with pytest.raises(SmallkubeError, match="can't be read"):
        verify_backup(path, master)


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
    found = status.parse(
        [{"Status": {"header": header, "version": "3.6.6", "dbSize": 28672, "dbSizeInUse": 20480}}], ""
    )
    assert (found.revision, found.term, found.index) == (1, 0, 0)
    assert list(status.problems(found)) == ["etcd has no leader"]


def test_metrics_have_the_newest_backup_also_after_a_failure() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    text = notify.metrics("demo", False, now, 1.5, catalog.Catalog(Path(), (FULL,), {}))
    assert 'smallkube_etcd_backup_success{cluster="demo"} 0\n' in text
    assert f'last_success_timestamp_seconds{{cluster="demo"}} {int(START.timestamp())}\n' in text
    assert text.count("# TYPE") == 8
    assert "last_success" not in notify.metrics("demo", False, now, 1.5, catalog.Catalog(Path(), (), {}))


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
