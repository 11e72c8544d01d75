"""Proves that what machines say is read as it is meant, that garbage does no harm, and how health is judged from it."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.core.errors import SmallkubeError
from smallkube.deploy import facts, health, history
from smallkube.deploy.facts import HostFacts, Progress

SYSTEM = "/nix/store/aaa-nixos-system-node1"
LOOK = f"""\
bundle=yes
scripts=no
host_key=ssh-ed25519 AAAA root@node1
time=1700000000
store_free_kib=2000000
state_free_kib=100000
system={SYSTEM}
profile=/nix/store/bbb
generation=12
failed=a.service b=c.service
armed=smallkube-rollback-1234.timer
"""
PROGRESS = f"begun=yes\nstatus=4\noutcome=\nrollback=\nsystem={SYSTEM}\nfailed=x.service \n\nlog=no\n\nlast line\n"


def a_look(**other: object) -> HostFacts:
    return replace(facts.parse_look(LOOK), **other)  # type: ignore[arg-type]


def a_progress(**other: object) -> Progress:
    good = Progress(True, 0, "", None, SYSTEM, frozenset(), "")
    return replace(good, **other)  # type: ignore[arg-type]


def test_a_look_is_read() -> None:
    look = facts.parse_look(LOOK)
    assert (look.has_bundle, look.has_scripts) == (True, False)
    assert (look.clock, look.store_free, look.state_free) == (1_700_000_000, 2_000_000, 100_000)
    assert (look.system, look.profile, look.generation) == (SYSTEM, "/nix/store/bbb", "12")
    assert look.failed == {"a.service", "b=c.service"}
    assert look.armed == ("smallkube-rollback-1234.timer",)


@pytest.mark.parametrize("text", ["", "system=\n", "system=/run/current-system\n", "bash: readlink: not found"])
def test_a_machine_without_a_system_is_no_nixos_machine(text: str) -> None:
    with pytest.raises(SmallkubeError, match="not a NixOS machine"):
        facts.parse_look(text)


@given(st.text())
def test_garbage_is_read_or_refused_but_never_a_fault_of_ours(text: str) -> None:
    facts.parse_progress(text)
    facts.parse_look(f"system={SYSTEM}\nfailed=\n{text}\nsystem={SYSTEM}")
    history.parse(text)


@pytest.mark.parametrize(
    ("text", "status"), [("0", 0), ("12", 12), ("", None), ("-1", None), ("²", None), ("٣", None), ("1 2", None)]
)
def test_numbers_are_numbers(text: str, status: int | None) -> None:
    assert facts.parse_progress(f"status={text}").status == status


def test_progress_is_read() -> None:
    now = facts.parse_progress(PROGRESS)
    assert (now.begun, now.status, now.outcome, now.rollback_status) == (True, 4, "", None)
    assert now.failed == {"x.service"}
    assert now.log == "log=no\n\nlast line\n"
    assert facts.parse_progress("begun=no\nstatus=\n\n").begun is False


def test_scripts_are_called_by_their_content() -> None:
    command = facts.script("decide", "1234")
    assert command.argv == ("/bin/sh", f"{facts.HOME}/scripts/{facts.scripts().digest}/decide.sh", "1234")
    assert command.name == "decide"
    assert facts.unpushed_script("lock", "drop", "1").stdin == facts.scripts().files["lock.sh"]


NOW = 1_700_000_000.0
KEY = "ssh-ed25519 AAAA another-comment"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({}, None),
        ({"host_key": "ssh-ed25519 AAAA"}, None),
        ({"host_key": "ssh-ed25519 BBBB"}, "is not the key that the secrets are encrypted to"),
        ({"host_key": ""}, "is not the key that the secrets are encrypted to"),
        ({"clock": 1_700_000_030}, None),
        ({"clock": 1_700_000_031}, r"its clock is \+31 s off"),
        ({"clock": 0}, "its clock is -1700000000 s off"),
        ({"store_free": (1 << 20) - 1}, "only 1023 MiB free in /nix/store"),
        ({"state_free": 0}, "only 0 MiB free in /var/lib"),
    ],
)
def test_what_makes_a_machine_unfit(other: dict[str, object], reason: str | None) -> None:
    reasons = health.unfit(a_look(**other), NOW, KEY)
    assert len(reasons) == (reason is not None)
    if reason:
        assert re.search(reason, reasons[0])


@pytest.mark.parametrize(
    ("before", "other", "reasons"),
    [
        (set(), {}, []),
        (set(), {"status": None}, ["the activation has not ended"]),
        (set(), {"status": 4}, ["switch-to-configuration ended with status 4"]),
        (set(), {"system": "/nix/store/old"}, ["it runs /nix/store/old"]),
        (set(), {"failed": frozenset({"b.service", "a.service"})}, ["failed units: a.service, b.service"]),
        ({"a.service"}, {"failed": frozenset({"a.service"})}, []),
        (set(), {"failed": frozenset({"smallkube-activate-1.service"})}, []),
    ],
)
def test_what_makes_a_machine_ill(before: set[str], other: dict[str, object], reasons: list[str]) -> None:
    assert list(health.ill(a_look(failed=frozenset(before)), a_progress(**other), SYSTEM)) == reasons


ENTRY = (
    '{"time": "2026-01-01T00:00:00+00:00", "operator": "root@x", "goal": "switch", "digest": "d", '
    '"system": "s", "generation": "3", "outcome": "deployed", "reason": "a\\u2028b"'
)


def test_history_survives_what_a_power_cut_or_a_later_version_left() -> None:
    text = f'{ENTRY}}}\n{ENTRY[:40]}\n[]\nnull\n{{"time": 1}}\n\n{ENTRY}, "more": 1}}\n'.replace("\\u2028", "\u2028")
    assert [entry.reason for entry in history.parse(text)] == ["a\u2028b"] * 2
