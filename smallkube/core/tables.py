"""Tables on a terminal: which columns fit, which may wrap, and what is shortened. Pure."""

import re
from collections.abc import Sequence
from typing import NamedTuple

GAP = 2
"""Blanks between columns."""
_PROSE = 24
"""Characters to which a column of several words may be wrapped."""
_SHORTER = (
    (re.compile(r"\b(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:\d\d(\.\d+)?)?(Z|\+00:00)(?!\w)"), r"\1 \2"),
    (re.compile(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b"), r"\1…"),
    (re.compile(r"/nix/store/([0-9a-z]{6})[0-9a-z]{26}-"), r"\1…-"),
)


class Layout(NamedTuple):
    """``kept`` are the positions of the columns that are shown; those of them in ``wrapped`` may take several lines."""

    kept: tuple[int, ...]
    wrapped: frozenset[int]


def short(text: str) -> str:
    """``text`` with times to the minute, and with the beginnings of hexadecimal digests and of store paths' hashes."""
    for pattern, wanted in _SHORTER:
        text = pattern.sub(wanted, text)
    return text


def fit(cells: Sequence[Sequence[str]], spare: Sequence[str], room: int) -> Layout:
    """What is shown of ``cells``, whose first row is the heading, each another, on ``room`` columns of a terminal.

    Columns that are ``spare`` are left out one by one, the first of them first, until the others fit. If they do not
    fit even then, each may wrap: nothing is cut off.
    """
    widths: list[int] = [max(len(row[at]) for row in cells) for at in range(len(cells[0]))]
    prose = {at for at, width in enumerate(widths) if width > _PROSE and any(" " in row[at] for row in cells[1:])}
    least: list[int] = [_PROSE if at in prose else width for at, width in enumerate(widths)]
    kept = [*range(len(widths))]

    def too_wide() -> bool:
        wanted: int = sum(least[at] for at in kept) + GAP * (len(kept) - 1)
        return wanted > room

    for name in spare:
        if too_wide():
            kept.remove(cells[0].index(name))
    return Layout(tuple(kept), frozenset(kept if too_wide() else prose))
