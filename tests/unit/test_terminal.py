"""What machines say reaches the operator's terminal as text: never obeyed, and whatever its encoding."""

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smallkube.core import ui
from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import REPOSITORY
from smallkube.remote.host import MAX_LINE, Command, Result

HOSTILE = [
    "\x1b]52;c;Y3VybCBldmlsfHNo\x07",  # sets the clipboard
    "\x1b]0;title\x1b\\",
    "\x9b2J",  # clears the screen, as one character
    "\x1b[2J\x1b[H\x1b[6n",
    "good\rbad",
    "\b\b\b\x7f",
    "\u202egnp.exe",
    "[/etc/foo]",
    "[bold red]:warning: [link=http://x]",
    "caf\xe9 \u2026 \u2192 \U0001f600",
    "\ud800",
]
PARTS = st.one_of(st.sampled_from(HOSTILE), st.text(alphabet=st.characters(), max_size=20))
"""Also lone surrogates, which JSON can bring and no encoding has."""
OBEYED = {*map(chr, range(32)), *map(chr, range(127, 160)), *"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}
SHOWN: dict[str, Callable[[str], None]] = {
    "result": ui.result,
    "message": ui.message,
    "warning": ui.warn,
    "table": lambda text: ui.table(("A", "B"), [(text, "x")]),
    "progress": lambda text: ui.Progress(["node1"]).step("node1", text),
    "error": lambda text: ui.message(str(SmallkubeError(text, where=text, hint=text))),
    "JSON": lambda text: ui.json_result([text]),
}


def written(encoding: str, show: Callable[[], None]) -> str:
    """What reaches a terminal of this ``encoding``."""
    raw = io.BytesIO()
    before = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = io.TextIOWrapper(raw, encoding)
    try:
        ui.accept_any_text()
        show()
        ui.flush()
        return raw.getvalue().decode(encoding)
    finally:
        sys.stdout, sys.stderr = before


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii", "cp437"])
@pytest.mark.parametrize("way", SHOWN)
@settings(max_examples=25)  # of each of 28
@given(text=st.lists(PARTS, max_size=4).map("".join))
@example("".join(HOSTILE))
def test_nothing_that_is_shown_is_obeyed(way: str, encoding: str, text: str) -> None:
    shown = written(encoding, lambda: SHOWN[way](text))
    assert not {*shown} & (OBEYED - {"\n", "\t"})
    if way == "JSON":
        assert json.loads(shown) == json.loads(json.dumps([text]))


SCRIPT = """
import sys, time
from smallkube.core import ui
ui.accept_any_text()
for word in sys.argv[1:]:
    text = word.encode().decode("unicode-escape")
    with ui.Progress(["node1", "node2"]) as progress:
        progress.step("node1", text)
        progress.step("node2", text)
        ui.message(text)
        time.sleep(0.3)
        progress.done("node1", text)
    ui.table(("NODE", "DETAIL"), [("node1", text)])
    ui.raw_result(text.encode(errors="replace"))
"""


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_terminal_shows_text_of_machines(encoding: str) -> None:
    """With rich, on a real one."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-c", SCRIPT, *(text.encode("unicode-escape").decode() for text in HOSTILE)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "PYTHONIOENCODING": encoding}
    process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, cwd=REPOSITORY, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 1 << 16):
            shown += data
    except OSError:  # its other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0, shown.decode(encoding)
    assert not any(sequence in shown for sequence in (b"\x1b]", b"\x1b[2J\x1b[H", b"\x07", b"\x9b", b"\x7f", b"\b"))
    for text in HOSTILE:
        if text.isascii() and text.isprintable():
            assert shown.count(text.encode()) >= 4


def test_line_of_a_message_is_bounded() -> None:
    assert len(Result(1, b"", "x" * 60_000_000).last_line) == MAX_LINE


def test_words_that_are_no_text_reach_the_machine() -> None:
    assert b"exec echo '\xff\xe9'" in Command(("echo", os.fsdecode(b"\xff\xe9"))).script("none")
