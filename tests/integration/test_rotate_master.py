"""Proves `keys.rotate-master`: every file opens with the new identity and with it alone, nothing is lost wherever it is
killed, and the old identity goes only when told, and not before the rotation has ended.
"""

import json
import os
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from smallkube.operations import master
from smallkube.secrets import age
from smallkube.secrets.transaction import changing_keys
from tests.integration.crash import assert_sound, kills, plaintexts

ROTATE = ("keys.rotate-master", "--yes")
DROP = (*ROTATE, "--drop-old")


def identities(cluster: Any) -> age.Master:
    return age.parse_master(cluster.workspace.master_key.read_text(), "master_key")


def opened_by(cluster: Any, master: age.Master) -> set[str]:
    """Files that this identity can open."""
    found = set()
    for path in cluster.keys.glob("*.age"):
        try:
            age.decrypt(path.read_bytes(), master, path.name)
            found.add(path.name)
        except age.NotForMaster:
            continue
    return found


def rotate(cluster: Any) -> None:
    with changing_keys(cluster.workspace):
        master.act(cluster.cluster, master.plan(cluster.cluster))


def test_everything_is_for_the_new_one_alone(ready: Any) -> None:
    secret, old = plaintexts(ready), identities(ready)
    report = json.loads(ready.done(*ROTATE, "--json"))
    new = identities(ready).only(report["master"])
    assert report["old"] == list(old.recipients)
    assert set(report["rekeyed"]) == set(secret) == opened_by(ready, new)
    assert opened_by(ready, old) == set()
    assert plaintexts(ready) == secret
    assert ready.workspace.master_key.stat().st_mode & 0o7777 == 0o600
    assert ready.problems() == {}
    ready.write_inventory((1, 2, 3))
    ready.new_host_key("node3")
    ready.done("keys.generate")
    assert opened_by(ready, old) == set(), "a new secret"


def test_the_reissue_list_has_every_secret_and_real_commands(ready: Any) -> None:
    report = json.loads(ready.done(*ROTATE, "--json"))
    listed = [name for row in report["reissue"] for name in row["names"]]
    assert sorted(f"{name}.age" for name in listed) == sorted(plaintexts(ready))
    known = ready.done("--list")
    words = [word for row in report["reissue"] for word in row["command"].split()]
    tasks = [after for word, after in pairwise(words) if word == "inv"]
    keys = {f"keys.rotate-{what}" for what in ("wireguard", "certificates", "issuer")}
    assert {"tokens.rotate", "encryption.rotate", *keys} <= set(tasks)
    assert [task for task in tasks if task.split(".")[-1] not in known] == []


def test_a_second_run_changes_nothing_and_drop_old_removes_it(ready: Any) -> None:
    old = identities(ready).recipient
    ready.done(*ROTATE)
    before = ready.snapshot()
    assert "nothing to do" in ready.done("keys.rotate-master")
    assert ready.snapshot() == before
    unasked = ready.inv("keys.rotate-master", "--drop-old")
    assert (unasked.returncode, ready.snapshot()) == (2, before), unasked.stderr
    assert "pass --yes" in unasked.stderr
    assert old in ready.done(*DROP, "--dry-run")
    assert ready.snapshot() == before
    new = identities(ready).recipient
    ready.done(*DROP)
    assert identities(ready).recipients == (new,)
    assert ready.workspace.master_key.stat().st_mode & 0o7777 == 0o600
    assert ready.problems() == {}
    assert "no identity but the master" in ready.done(*DROP)
    ready.done(*ROTATE)
    assert identities(ready).recipients[1:] == (new,)


def test_a_dry_run_names_the_files_and_changes_nothing(ready: Any) -> None:
    before = ready.snapshot()
    assert "would re-encrypt keys/kube_token_root.age" in ready.done("keys.rotate-master", "--dry-run")
    assert json.loads(ready.done("keys.rotate-master", "--dry-run", "--json"))["stage"] == "one identity"
    assert ready.snapshot() == before


def test_without_consent_nothing_changes(ready: Any) -> None:
    assert "pass --yes" in ready.refused("keys.rotate-master")


def test_a_file_that_can_not_be_rekeyed_stops_the_rotation(ready: Any) -> None:
    path = ready.keys / "kube_token_root.age"
    path.write_bytes(path.read_bytes()[:-1])
    said = ready.refused(*ROTATE, status=1)
    assert "keys/kube_token_root.age" in said and "restore it from git" in said


def test_the_old_one_does_not_go_while_a_file_needs_it(ready: Any) -> None:
    old = ready.workspace.master_key.read_text()
    new, _ = age.new_identity()
    ready.workspace.master_key.write_text(new + old)
    assert "can't be read without the previous identity" in ready.refused(*DROP)


def test_an_identity_kept_elsewhere_stays_there(ready: Any) -> None:
    elsewhere = ready.private / "stick"
    ready.workspace.master_key.rename(elsewhere)
    ready.workspace.master_key.symlink_to(elsewhere)
    ready.done(*ROTATE)
    assert ready.workspace.master_key.is_symlink()
    assert len(identities(ready).recipients) == 2
    assert elsewhere.stat().st_mode & 0o7777 == 0o600


def test_killed_before_each_change_the_same_command_completes_it(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a killed process loses nothing that it has written
    secret, old = plaintexts(ready), identities(ready)
    known: list[dict[str, bytes]] = []
    last = 0
    for step in kills(ready.workspace.root, partial(rotate, ready)):
        assert plaintexts(ready) == secret, step
        rotate(ready)
        assert len(identities(ready).recipients) == 2, "not one more for each attempt"
        assert opened_by(ready, old) == set()
        assert plaintexts(ready) == secret, step
        assert_sound(ready, known)
        last = max(last, step)
    assert last > 15


def test_only_the_first_identity_is_kept() -> None:
    text = "# made 2026\n# public key: a\nAGE-SECRET-KEY-1A\n# public key: b\nAGE-SECRET-KEY-1B\n"
    assert master.first_identity(text) == "# made 2026\n# public key: a\nAGE-SECRET-KEY-1A\n"
