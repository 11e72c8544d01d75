"""The progress bar of long builds."""

import time
from datetime import timedelta
from typing import Self

from smallkube.core import ui
from smallkube.core.errors import one_line


class Bar:
    """A progress bar on a terminal, a plain line now and then elsewhere: what is done of a stage, and the time left.

    The time left follows from how long what is done of the stage took.
    """

    PLAIN_EVERY = 20
    """Seconds between plain lines."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars
        from rich.table import Column

        console = Console(stderr=True)
        self._live = console.is_terminal
        self._bars = Bars(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=12),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            TextColumn("{task.fields[doing]}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
            console=console,
            expand=True,
            disable=not self._live,
            speed_estimate_period=3600,
        )
        self._said = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def stage(self, title: str, total: int | None = None) -> None:
        """The next stage begins; ``total`` in whatever unit, None when it can't be known."""
        for task in self._bars.tasks:
            self._bars.update(task.id, total=task.total or 1, completed=task.total or 1, doing="")
        self._bars.add_task(one_line(title), total=total, doing="")
        if not self._live:
            ui.message(one_line(title))
            self._said = time.monotonic()

    def at(self, done: int, doing: str = "") -> None:
        """So much of the stage's total is done; ``doing`` is what is at work now."""
        task = self._bars.tasks[-1]
        self._bars.update(task.id, completed=done, doing=one_line(doing))
        if not self._live and time.monotonic() - self._said > self.PLAIN_EVERY:
            left = task.time_remaining
            rest = f", {timedelta(seconds=round(left))} left" if left is not None else ""
            ui.message(f"{task.description}: {task.percentage:.0f} %{rest}  {one_line(doing)}")
            self._said = time.monotonic()
