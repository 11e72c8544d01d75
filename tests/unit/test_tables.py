"""Tables on a terminal of 80 columns: nothing is cut off or broken within a word, and what does not fit is named."""

import io
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from smallkube.cli import cluster as cluster_tasks
from smallkube.cli import deploy, inventory, keys, nodes_clean, output, users
from smallkube.cli.context import Current
from smallkube.core import tables, ui
from smallkube.core.checks import Check, Result
from smallkube.core.errors import SmallkubeError
from smallkube.deploy import history
from smallkube.deploy.history import Entry
from smallkube.deploy.plan import Report
from smallkube.kube import audit_log
from smallkube.kube.audit_log import Request
from smallkube.operations.gc import Freed
from smallkube.operations.status import Row, Status
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.fleet import NodeOutcome
from smallkube.secrets import people
from smallkube.secrets.people import Person
from tests.unit.fake_cluster import FakeCluster

GOLDEN = Path(__file__).with_name("golden")
"""What each task prints at 80 columns and into a pipe, with the same data."""
DIGEST = "0123456789abcdef" * 4
TIME = "2026-11-27T07:22:34Z"


class Terminal(io.TextIOWrapper):
    """A terminal in memory."""

    def __init__(self, encoding: str, tty: bool = True) -> None:
        super().__init__(io.BytesIO(), encoding)
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty

    @property
    def text(self) -> str:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding)


Open = Callable[..., Terminal]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Makes standard output a terminal of so many columns, or a pipe."""
    for name in ("NO_COLOR", "FORCE_COLOR", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def made(columns: int = 80, encoding: str = "utf-8", tty: bool = True) -> Terminal:
        opened = Terminal(encoding, tty)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "stdout", opened)
        ui.accept_any_text()
        return opened

    return made


def plain(text: str) -> list[str]:
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in text.splitlines()]


def request(user: str, resource: str, name: str) -> Request:
    credential = f"X509SHA256={DIGEST}"
    address = "fd00:1234:5678:9abc::2"
    return Request(TIME, user, "", "delete", resource, "kube-system", name, "", 200, address, "kubectl", credential)


def show_audit(_: FakeCluster, patch: pytest.MonkeyPatch) -> None:
    found = [
        request("alice", "pods/exec", "metrics-server-6b8d4c9f7d-x2x9p"),
        request("system:node:node2", "leases", "node2"),
    ]
    patch.setattr(audit_log, "requests", lambda *_: found)
    cluster_tasks.audit(Context(), user=[], verb=[], namespace=[], resource=[])


def show_history(_: FakeCluster, patch: pytest.MonkeyPatch) -> None:
    done = Entry(TIME, "administrator@workstation", "dry-activate", DIGEST, "/nix/store/x", "17", "rolled back", "")
    patch.setattr(history, "read", lambda _: [done])
    deploy.history(Context())


def show_status(_: FakeCluster, __: pytest.MonkeyPatch) -> None:
    states = ("True", True, 12, "handshake 4 s ago", TIME, "the bundle differs")
    rows = tuple(Row(f"node{n}", "worker", "v1.36.1", "6.12.58", "17", *states) for n in (2, 3))
    cluster_tasks._show(Status(rows, None, None, {}, None, ()), datetime.now(UTC), wide=False)


def show_users(_: FakeCluster, patch: pytest.MonkeyPatch) -> None:
    person = Person("alice.longname", ("developers", "operators"), "cluster-admin", "", TIME, "2020-01-01T00:00:00Z")
    patch.setattr(people, "read", lambda _: {person.name: person})
    patch.setattr(audit_log, "last_seen", lambda *_: {person.name: TIME})
    users.list_(Context(), seen=True)


def show_checks(_: FakeCluster, __: pytest.MonkeyPatch) -> None:
    store = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nixos-system-node2-25.11"
    checks = [
        Check("node2", "system", Result.OK, f"runs {store}, deployed {TIME}, bundle {DIGEST}"),
        Check("node10", "kube-controller-manager", Result.WARNING, "is not active: failed, see inv nodes.exec"),
    ]
    output.show_checks(Current(), checks)


def show_reports(_: FakeCluster, __: pytest.MonkeyPatch) -> None:
    why = "the new system is not healthy: kubelet.service has failed; the rollback had errors (status 4)"
    deploy._show(Current(), [Report("node2", NodeOutcome.ROLLED_BACK, 341.2, why, generation="17")])


def show_freed(_: FakeCluster, __: pytest.MonkeyPatch) -> None:
    old = tuple(map(str, range(101, 113)))
    waits = "a deploy is not confirmed: smallkube-rollback-1a2b3c4d.timer; wait until it is confirmed"
    rows = [
        Freed("node2", NodeOutcome.CHECKED, 0.0, "", old, 1200, 3 << 30, 14, 1 << 30),
        Freed("node10", NodeOutcome.FAILED, 0.0, waits),
    ]
    with pytest.raises(SmallkubeError, match="node10 failed"):
        nodes_clean._show(Current(), rows)


TASKS: dict[str, Callable[[FakeCluster, pytest.MonkeyPatch], Any]] = {
    "audit": show_audit,
    "history": show_history,
    "status": show_status,
    "users": show_users,
    "checks": show_checks,
    "reports": show_reports,
    "freed": show_freed,
    "inventory": lambda _, __: inventory.show(Context()),
    "keys": lambda _, __: keys.list_(Context()),
}


@pytest.mark.parametrize("task", TASKS)
def test_tables_fit_80_columns(
    task: str, cluster: FakeCluster, terminal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(cluster.workspace.root))
    monkeypatch.setattr(Current, "connect", lambda _, node: FakeHost(node, lambda _: reply()))
    wide = terminal(400)
    TASKS[task](cluster, monkeypatch)
    narrow = terminal(80)
    TASKS[task](cluster, monkeypatch)
    lines = plain(narrow.text)
    assert max(map(len, lines)) <= 80
    words = plain(wide.text)
    long = [word for line in words for word in line.split() if len(word) > 24]
    broken = {word for line in lines for word in line.split()} - {word for line in words for word in line.split()}
    assert [word for word in broken if not any(word in each for each in long)] == []
    piped = terminal(80, tty=False)
    TASKS[task](cluster, monkeypatch)
    assert "\x1b" not in piped.text
    shown = "\n".join(("# 80 columns", *lines, "", "# piped", piped.text))
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / f"{task}.txt").write_text(shown)
    assert shown == (GOLDEN / f"{task}.txt").read_text(), "if that is wanted: UPDATE_GOLDEN=1"


def test_spare_columns_go_first_and_are_named(terminal: Open, capsys: pytest.CaptureFixture[str]) -> None:
    shown = terminal(30)
    ui.table(("NAME", "DIGEST", "STATE"), [("x" * 10, "y" * 12, "z" * 10)], spare=("DIGEST", "STATE"))
    assert plain(shown.text) == ["NAME        STATE", "xxxxxxxxxx  zzzzzzzzzz"]
    assert capsys.readouterr().err == "not shown at this width: DIGEST (--wide)\n"


@pytest.mark.parametrize("wide", [True, False])
def test_wide_shows_everything_in_full(wide: bool, terminal: Open) -> None:
    shown = terminal(40)
    ui.table(("TIME", "DIGEST"), [(TIME, DIGEST)], wide=wide)
    assert plain(shown.text)[1] == (f"{TIME}  {DIGEST}" if wide else "2026-11-27 07:22  0123456789ab…")


def test_narrow_terminal_loses_nothing(terminal: Open) -> None:
    shown = terminal(20)
    ui.table(("ONE", "TWO"), [("a" * 30, "b" * 30)])
    assert "".join(plain(shown.text)).count("a") == "".join(plain(shown.text)).count("b") == 30


def test_pipe_gets_everything_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    ui.table(("NAME", "TIME", "STATE"), [(DIGEST, TIME, "failed")], spare=("TIME",))
    assert capsys.readouterr() == (f"{'NAME':64}  {'TIME':20}  STATE\n{DIGEST}  {TIME}  failed\n", "")


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False)])
def test_no_color_is_honoured(
    no_color: str | None, coloured: bool, terminal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = terminal()
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    ui.table(("NAME", "STATE"), [("node1", "failed")])
    assert ("\x1b[1;31m" in shown.text) is coloured
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", shown.text) or coloured


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_latin_1_terminal_gets_plain_signs(encoding: str, terminal: Open) -> None:
    shown = terminal(80, encoding)
    ui.table(("NAME", "DIGEST"), [("node1 → node2", DIGEST), ("node3 – Привет", "-")])
    ui.result("… and 3 lines more")
    text = plain(shown.text)
    assert text[1].startswith("node1 -> node2") and text[1].endswith("  0123456789ab...")
    assert text[2].startswith(r"node3 - \u041f") and text[3] == "... and 3 lines more"
    assert text[1].index("0123") == text[2].rindex("-"), "the columns are aligned"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (TIME, "2026-11-27 07:22"),
        ("2026-11-27T07:22:34.123456+00:00", "2026-11-27 07:22"),
        ("2026-11-27T07:22:34+01:00", "2026-11-27T07:22:34+01:00"),
        ("20261127T072234Z", "20261127T072234Z"),
        ("SHA256:" + "aB3" * 14, "SHA256:" + "aB3" * 14),
        ("/nix/store/0123456789abcdfghijklmnpqrsvwxyz-glibc-2.40", "012345…-glibc-2.40"),
    ],
)
def test_what_is_shortened(text: str, wanted: str) -> None:
    assert tables.short(text) == wanted


def test_failed_checks_are_still_an_error(terminal: Open) -> None:
    terminal()
    with pytest.raises(SmallkubeError, match="checks failed: node1"):
        output.show_checks(Current(), [Check("node1", "x", Result.FAILED, "y")])
