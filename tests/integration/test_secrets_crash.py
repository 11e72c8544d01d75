"""kill -9 of every writer of keys/, then the next command.

After each kill every file that is there is whole and none that was there is lost; after the next command that takes the
lock everything is complete and consistent. The files are as a kill before every single change that the work makes on
disk leaves them, one after the other. The rotations of WireGuard keys and of the master have tests of their own.
"""

import os
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any

import pytest

from smallkube.operations import certificates as rotation
from smallkube.operations import users
from smallkube.operations.users import Wanted
from smallkube.remote import scan
from smallkube.remote.scan import Scanned
from smallkube.secrets import certificates, host_keys, kinds, policy
from smallkube.secrets import edit as editing
from smallkube.secrets import rekey as rekeying
from smallkube.secrets.people import read
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.transaction import Change, apply, changing_keys, commit, states
from tests.integration.crash import assert_sound, generate, kills, locked, plaintexts


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it has written."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def rekey(cluster: Any) -> None:
    with changing_keys(cluster.workspace):
        rekeying.act(cluster.cluster, rekeying.plan(cluster.cluster))


def test_generate_killed_before_each_single_change(make_cluster: Callable[..., Any]) -> None:
    cluster = make_cluster((1, 2))
    known: list[dict[str, bytes]] = []
    steps = 0
    for steps in filter(None, kills(cluster.workspace.root, lambda: generate(cluster))):
        kept = {name: data for name, data in cluster.content().items() if name.endswith((".age", ".crt", "master_key"))}
        plaintexts(cluster)
        generate(cluster)
        assert {name: cluster.content().get(name) for name in kept} == kept, steps
        assert_sound(cluster, known)
    assert steps > 40


def test_rekey_killed_before_each_single_change(make_cluster: Callable[..., Any]) -> None:
    cluster = make_cluster((1, 2))
    generate(cluster)
    secret = plaintexts(cluster)
    cluster.new_host_key("node1")
    known: list[dict[str, bytes]] = []
    steps = 0
    for steps in filter(None, kills(cluster.workspace.root, lambda: rekey(cluster))):
        assert plaintexts(cluster) == secret, steps
        rekey(cluster)
        assert plaintexts(cluster) == secret
        assert_sound(cluster, known)
    assert steps > 20


def edited(cluster: Any) -> None:
    """A new key for a certificate, which is issued with it."""
    with changing_keys(cluster.workspace):
        editing.edit(cluster.cluster, "apiserver.key", lambda _name, _before: certificates.new_key())


def test_edit_killed_before_each_single_change(make_cluster: Callable[..., Any]) -> None:
    cluster = make_cluster((1, 2))
    generate(cluster)
    before = plaintexts(cluster)
    known: list[dict[str, bytes]] = []
    changed = steps = 0
    for steps in filter(None, kills(cluster.workspace.root, lambda: edited(cluster))):
        locked(cluster)
        assert_sound(cluster, known)
        found = plaintexts(cluster)
        assert found.keys() == before.keys(), steps
        changed += found != before
    assert steps > 5 and changed > 3


def files(rows: Collection[Secret]) -> set[str]:
    """Of secrets and of their certificates."""
    return {row.file for row in rows} | {row.certificate.file for row in rows if row.certificate}


def test_steps_of_rotations_killed_before_each_change(make_cluster: Callable[..., Any]) -> None:
    """Each is at its beginning, or at its end: new, moved and removed secrets and certificates."""
    cluster = make_cluster((1, 2))
    generate(cluster)
    rows = policy.secrets_of(cluster.inventory)
    keys = [row for row in rows if row.certificate]
    tokens = [row for row in rows if row.kind is Kind.TOKEN]
    steps = [
        Change({row: kinds.make(row.kind, ()) for row in tokens}, {row.old: row for row in tokens}),
        Change({row.retired: b"t" * 64 for row in tokens}, removed=[row.old for row in tokens]),
        Change(removed=[row.retired for row in tokens]),
        rotation.issued(keys),
        rotation.SWITCH(keys),
        rotation.untrusted(keys),
        rotation.ended(keys),
    ]
    known: list[dict[str, bytes]] = []
    for change in steps:
        before = cluster.content()

        def work(change: Change = change) -> None:
            with changing_keys(cluster.workspace):
                apply(cluster.cluster, change)

        removed = files(change.removed) | {name for name, data in change.public.items() if data is None}
        added = files((*change.new, *change.moved)) | {*change.public}
        after = (before.keys() | added) - removed
        last = 0
        for step in kills(cluster.workspace.root, work):
            locked(cluster)
            assert cluster.content().keys() == after or cluster.content() == before
            assert_sound(cluster, known)
            last = max(step, last)
        assert last > 5 and cluster.content().keys() == after != before.keys()


def test_storing_host_keys_killed_before_each_change(make_cluster: Callable[..., Any]) -> None:
    cluster = make_cluster((1, 2))
    key = host_keys.parse_host_key((cluster.private / "node1.pub").read_text(), "test")
    shown = [Scanned(node, key) for node in cluster.inventory.nodes]

    def work() -> None:
        with changing_keys(cluster.workspace):
            commit(cluster.workspace, scan.files(shown))

    before = cluster.content()
    steps = 0
    for steps in filter(None, kills(cluster.workspace.root, work)):
        locked(cluster)
        found = cluster.content()
        assert bool(states(cluster.workspace)) == (found != before)
        found.pop("state.json", None)
        assert found in (before, scan.files(shown)), steps
    assert steps > 5


def test_changes_of_people_killed_before_each_change(make_cluster: Callable[..., Any]) -> None:
    """A user is as before or as after: certificate, key and the line in users.json."""
    cluster, now = make_cluster((1, 2)), datetime.now(UTC)
    generate(cluster)
    recipient = (cluster.private / "node1.pub").read_text().strip()
    people = [
        Wanted("alice", groups=("dev",)),
        Wanted("alice", recipient=recipient),
        Wanted("alice", role="view"),
        Wanted("bob"),
    ]
    known: list[dict[str, bytes]] = []
    for wanted in people:

        def work(wanted: Wanted = wanted) -> None:
            with changing_keys(cluster.workspace):
                users.add(cluster.cluster, wanted, now)

        assert_whole(cluster, work, known)
    runbook = cluster.cluster, None, lambda _: pytest.fail("asks no machine"), lambda: None
    for name in ("alice", "bob"):
        removal = users.Removal(*runbook, read(cluster.workspace)[name])
        assert_whole(cluster, removal.operation().steps[-1].run, known)
    assert not [name for name in cluster.content() if "alice" in name or "bob" in name]


def assert_whole(cluster: Any, work: Callable[[], object], known: list[dict[str, bytes]]) -> None:
    def run() -> None:
        work()

    before = cluster.content()
    names, last = set[frozenset[str]](), 0
    for step in filter(None, kills(cluster.workspace.root, run)):
        locked(cluster)
        found = cluster.content()
        assert found == before or found["state.json"] != before.get("state.json")
        assert_sound(cluster, known)
        names.add(frozenset(found))
        last = step
    assert last > 5 and len(names) <= 2
