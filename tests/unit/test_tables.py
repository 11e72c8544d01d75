"""Tables on a terminal of 80 columns: nothing is cut off or broken within a word, and what does not fit is named."""

import re

import pytest

from smallkube.cli import output
from smallkube.cli.context import Current
from smallkube.core import tables, ui
from smallkube.core.checks import Check, Result
from smallkube.core.errors import SmallkubeError
from tests.unit.conftest import Open
from tests.unit.screen import plain

DIGEST = "0123456789abcdef" * 4
TIME = "2026-11-27T07:22:34Z"


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
