"""What the operator sees: tables, progress, messages. The only module that prints.

Standard output carries the result and nothing else; all messages go to standard error.
"""

import codecs
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from datetime import timedelta
from importlib.util import find_spec
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, Self

from smallkube.core import tables
from smallkube.core.errors import HARMFUL, UsageError, one_line, visible

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_WIDE = 10_000
"""Characters of a line that is not fitted."""
GOOD = frozenset({"ok", "created", "deployed", "unchanged", "built", "kept", "running", "active", "done", "rebooted"})
BAD = frozenset({"failed", "missing", "wrong", "stale", "unreachable", "rolled back", "unknown", "not run"})


PLAIN = {"…": "...", "→": "->", "–": "-", "—": "-", "“": '"', "”": '"', "≤": "<=", "≥": ">="}
"""What stands for characters of our own texts where a terminal's encoding lacks them."""


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start]
    plain = PLAIN.get(found) or found.encode("ascii", "backslashreplace").decode()
    return plain, error.start + 1


codecs.register_error("smallkube.plain", _replaced)


def accept_any_text() -> None:
    """What a terminal's encoding lacks is shown plainly or by its number, and what it can't decode is replaced."""
    for stream, errors in ((sys.stdout, "smallkube.plain"), (sys.stderr, "smallkube.plain"), (sys.stdin, "replace")):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=errors)


def result(text: str) -> None:
    """Print the task's result, with the control characters in it made visible."""
    print(visible(text))


def json_result(value: Any) -> None:
    """Print the task's result as JSON: dataclasses as objects, and what JSON has no form for as text."""
    plain = not (sys.stdout and sys.stdout.encoding.lower().startswith("utf"))
    text = json.dumps(value, indent=2, ensure_ascii=plain, default=_plain)
    print(HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def raw_result(data: bytes) -> None:
    """Write the task's result byte for byte; on a terminal, control characters are made visible."""
    if sys.stdout.isatty():
        print(visible(data.decode(errors="replace")), end="")
        return
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def flush() -> None:
    """Have all that was printed written. Raises OSError where it can't be."""
    print(end="", flush=True)


def message(text: str) -> None:
    """Say something on the way (standard error)."""
    print(visible(text), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Say something that deserves attention (standard error)."""
    message(f"warning: {text}")


def confirm(question: str, *, yes: bool = False, word: str = "") -> None:
    """Return when the operator agrees, or did so beforehand (``yes``); ``word``: by typing it.

    Raises UsageError otherwise, and without a terminal.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"{question} confirmation required", hint="pass --yes")
    wanted = f"[type {word}]" if word else "[y/N]"
    print(f"{one_line(question)} {wanted} ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ((word,) if word else ("y", "yes")):
        raise UsageError("nothing was changed: not confirmed")


def confirm_name(question: str, name: str, *, yes: bool = False) -> None:
    """``confirm`` for what can't be undone: the operator types ``name``."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"{question}: confirmation required", hint="pass --yes")
    print(f"{one_line(question)}; type {name} to confirm: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != name:
        raise UsageError("nothing was changed: not confirmed")


def age(age: timedelta) -> str:
    """How long ago, in the largest unit that says enough: "5 min", "30 h", "3 days"."""
    minutes = max(0, int(age.total_seconds())) // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} days"


def size(count: int) -> str:
    """A number of bytes: "1.5 KiB", "20.0 MiB", "3.0 GiB"."""
    if count >= 1 << 30:
        return f"{count / (1 << 30):.1f} GiB"
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else f"{count / (1 << 10):.1f} KiB"


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None = None,
    spare: Sequence[str] = (),
    wide: bool = False,
) -> None:
    """Print a table: coloured and fitted on a terminal, plain aligned columns elsewhere (and for want of rich).

    Where it is fitted, the ``spare`` columns are left out if need be, the first of them first, and times and digests
    are shortened. ``wide``: everything in full.
    """
    cells = [[one_line(str(cell)) for cell in row] for row in (columns, *rows)]
    if sys.stdout.isatty() and find_spec("rich"):
        _fitted(cells, title, spare, wide)
        return
    if title:
        print(title)
    widths = [max(len(row[position]) for row in cells) for position in range(len(columns))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _fitted(cells: Sequence[Sequence[str]], title: str | None, spare: Sequence[str], wide: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False, width=_WIDE if wide else None)
    code = sys.stdout.encoding
    shorter = [[cell if wide else tables.short(cell) for cell in row] for row in cells]
    shown = [[cell.encode(code, "smallkube.plain").decode(code) for cell in row] for row in shorter]
    layout = tables.fit(shown, spare, console.width)
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, tables.GAP, 0, 0))
    for at in layout.kept:
        drawn.add_column(shown[0][at], overflow="fold", no_wrap=at not in layout.wrapped)
    for full, row in zip(cells[1:], shown[1:], strict=True):
        drawn.add_row(*(Text(row[at], style=_style(full[at])) for at in layout.kept))
    console.print(drawn)
    if missing := [name for at, name in enumerate(cells[0]) if at not in layout.kept]:
        message(f"not shown at this width: {', '.join(missing)} (--wide)")


def _style(cell: str) -> str:
    if cell in GOOD:
        return "green"
    return "bold red" if cell in BAD else ""


class Progress:
    """One live line per node on a terminal (its step, its seconds), plain lines elsewhere.

    Safe to call from several threads. ``verbose``: what programs print is shown as well.
    """

    PLAIN_EVERY = 20.0
    """Seconds between the lines about a program's output where there is no terminal."""

    def __init__(self, nodes: Sequence[str], *, verbose: bool = False) -> None:
        self._lock, self._verbose = threading.Lock(), verbose
        self._output: dict[str, str] = {}
        self._shown: dict[str, float] = {}
        self._state = dict.fromkeys(nodes, "waiting")
        self._began: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True, highlight=False, markup=False, emoji=False)
            self._live = Live(get_renderable=self._draw, console=console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def step(self, node: str, text: str) -> None:
        """``node`` is now at this step."""
        with self._lock:
            self._began.setdefault(node, time.monotonic())
            self._state[node] = one_line(text)
            self._output.pop(node, None)
            self._shown[node] = time.monotonic()
        if not self._live:
            message(f"{node}: {one_line(text)}")

    def done(self, node: str, outcome: str) -> None:
        """``node`` has ended, with this outcome."""
        self.step(node, outcome)
        with self._lock:
            self._ended[node] = time.monotonic()

    def output(self, node: str, line: str, counts: str) -> None:
        """What a program on ``node`` prints, with how far it is: its last line is shown, all only if verbose."""
        text = one_line(f"{counts}: {line}" if counts else line)
        with self._lock:
            self._output[node] = text
            now, step = time.monotonic(), self._state.get(node, "")
            due = not self._live and now - self._shown.get(node, 0.0) >= self.PLAIN_EVERY
            if due:
                self._shown[node] = now
        if self._verbose:
            message(f"{node}: {one_line(line)}")
        elif due:
            message(f"{node}: {step}: {text}")

    def _draw(self) -> "Table":
        from rich.table import Column, Table

        drawn = Table.grid(Column(), Column(), Column(no_wrap=True, overflow="crop"), padding=(0, 2))
        with self._lock:
            for node, text in self._state.items():
                began = self._began.get(node)
                seconds = f"{self._ended.get(node, time.monotonic()) - began:.0f} s" if began else ""
                shown = f"{text}: {self._output[node]}" if node in self._output else text
                drawn.add_row(node, seconds, shown, style=_style(text))
        return drawn
