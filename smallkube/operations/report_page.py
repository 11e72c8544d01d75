"""A report as one HTML page, without scripts and without anything from elsewhere."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from smallkube.core.errors import visible
from smallkube.operations.report import PROBLEM, Backup, Link, Machine, Report

_TEMPLATES = Path(__file__).with_name("templates")
_MAX_TEXT = 800
"""Characters of any one text on the page: what a machine answers may be long."""
_CARDS = 6
"""Up to so many nodes are drawn as cards, more as dots."""
_LABELS = 4
"""Up to so many nodes every link has its numbers in the picture, with more only bad ones; the table has them all."""
_MESH = 24
"""Beyond so many nodes, links that are in order are not drawn."""
_UNITS = ((86400 * 2, 86400, "d"), (7200, 3600, "h"), (120, 60, "min"), (-math.inf, 1, "s"))


@dataclass(frozen=True)
class Size:
    """Of a picture and of its parts, in its own units."""

    width: int
    card: tuple[int, int]
    chips: int


WIDE, NARROW = Size(960, (176, 76), 12), Size(360, (126, 66), 8)


@dataclass(frozen=True)
class Spot:
    """A node in the picture, by its centre; ``turn``: degrees by which the name of a dot is turned, ``flip``: and read
    from the other side.
    """

    node: Machine
    x: float
    y: float
    turn: float = 0
    flip: bool = False


@dataclass(frozen=True)
class Line:
    """A link in the picture, with its label at ``x``, ``y`` if it has one."""

    link: Link
    ends: tuple[float, float, float, float]
    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Chip:
    """A Service in the picture; ``reached`` from outside the cluster."""

    text: str
    x: float
    y: float
    width: float
    reached: bool = False


@dataclass(frozen=True)
class Picture:
    """The topology, to be drawn. ``below`` is where the Services begin."""

    size: Size
    height: float
    below: float
    cards: bool
    spots: tuple[Spot, ...]
    lines: tuple[Line, ...]
    chips: tuple[Chip, ...]


@dataclass(frozen=True)
class Mark:
    """A backup on the axis of time; ``place``: percent from the oldest to now."""

    backup: Backup
    place: float


def render(report: Report, refresh: int = 0) -> str:
    """The page; with ``refresh``, a browser loads it again after so many seconds."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"ago": ago, "bytes": size, "minute": minute}
    problems = sum(each.severity == PROBLEM for each in report.findings)
    return environment.get_template("report.html.j2").render(
        report=report,
        refresh=refresh,
        problems=problems,
        warnings=len(report.findings) - problems,
        pictures={"wide": picture(report, WIDE), "narrow": picture(report, NARROW)},
        marks=marks(report),
        since=lambda stamp: max(0, int((_time(report.time) - _time(stamp)).total_seconds())),
    )


def _shown(value: object) -> object:
    """What a text consists of, control characters included, without what is too much of it."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return visible(value if len(value) <= _MAX_TEXT else f"{value[:_MAX_TEXT]}…")


def ago(seconds: float) -> str:
    """A duration in the largest unit that says enough: "42 s", "3 h"."""
    unit, name = next((unit, name) for least, unit, name in _UNITS if seconds >= least)
    return f"{int(seconds // unit)} {name}"


def size(count: float) -> str:
    """Bytes in words: "12 MiB"."""
    names = ("B", "KiB", "MiB", "GiB", "TiB")
    step = next((step for step in range(len(names)) if count < 1024 ** (step + 1)), len(names) - 1)
    number = count / 1024**step
    return f"{number:.{0 if number >= 10 or step == 0 else 1}f} {names[step]}"


def minute(stamp: str) -> str:
    """RFC 3339 to the minute, as it is read: "2026-01-31 12:00"."""
    return stamp[:16].replace("T", " ")


def _time(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp)


def marks(report: Report) -> list[Mark]:
    """The backups on the axis of time, oldest first."""
    if not report.backups:
        return []
    now, first = _time(report.time), min(_time(each.created) for each in report.backups)
    span = max(1.0, (now - first).total_seconds())
    places = [(each, (_time(each.created) - first).total_seconds() / span) for each in reversed(report.backups)]
    return [Mark(each, round(min(1.0, place) * 100, 2)) for each, place in places]


def picture(report: Report, format: Size) -> Picture:
    """Nodes on an ellipse, the primary on top or on the left; below them the Services."""
    nodes, count = report.nodes, len(report.nodes)
    cards = count <= (_CARDS if format is WIDE else 4)
    if cards:
        across = min((format.width - format.card[0]) / 2 - 4, 330.0) if count > 1 else 0.0
        down = 0.0 if count <= 2 else 150.0 if format is WIDE else 135.0
        # A triangle or a pentagon ends above the lowest point of its ellipse.
        lowest = max(math.sin(2 * math.pi * each / max(1, count) - math.pi / 2) for each in range(max(1, count)))
        middle = down + format.card[1] / 2 + 8
        height = middle + down * lowest * (count > 2) + format.card[1] / 2 + 8
    else:
        height = min(format.width, 560.0)
        middle = height / 2
        across = down = height / 2 - 76
    begin = math.pi if cards and count == 2 else -math.pi / 2
    spots = []
    for position, node in enumerate(nodes):
        angle = begin + 2 * math.pi * position / count
        turn, flip = math.degrees(angle), math.cos(angle) < -1e-9
        x, y = format.width / 2 + across * math.cos(angle), middle + down * math.sin(angle)
        spots.append(Spot(node, round(x, 1), round(y, 1), round(turn + 180 * flip, 1), flip))
    chips = tuple(_chips(report, format, height + 34))
    end = chips[-1].y + 34 if chips else height
    return Picture(format, end, height, cards, tuple(spots), tuple(_lines(report, format, spots, cards)), chips)


def _lines(report: Report, format: Size, spots: Sequence[Spot], cards: bool) -> Iterator[Line]:
    places = {spot.node.name: (position, spot) for position, spot in enumerate(spots)}
    for link in report.links:
        (one, a), (other, b) = (places[name] for name in link.ends)
        if link.state == "ok" and len(spots) > _MESH:
            continue
        beside = (other - one) % len(spots) in (1, len(spots) - 1)
        level = format is NARROW and abs(a.x - b.x) > abs(a.y - b.y)
        part = 0.5 if beside or level else 0.36
        label = _label(link, short=format is NARROW) if cards and (len(spots) <= _LABELS or link.state != "ok") else ""
        x, y = a.x + (b.x - a.x) * part, a.y + (b.y - a.y) * part
        yield Line(link, (a.x, a.y, b.x, b.y), round(x, 1), round(y, 1), label)


def _label(link: Link, *, short: bool) -> str:
    if link.state == "unknown":
        return "not known"
    if link.state == "down":
        return "no handshake" if link.handshake is None else "down"
    speed = "" if link.milliseconds is None else f"{link.milliseconds:.1f} ms"
    lost = f"{link.lost}/{link.sent} lost" if link.lost else ""
    return ", ".join(filter(None, (speed if not (short and lost) else "", lost)))


def _chips(report: Report, format: Size, top: float) -> Iterator[Chip]:
    services = sorted(report.services or (), key=lambda each: (not each.node_ports, each.namespace, each.name))
    texts = [(f"{each.name[:24]} {each.ports[:16]}", bool(each.node_ports)) for each in services[: format.chips]]
    if len(services) > format.chips:
        texts.append((f"and {len(services) - format.chips} more", False))
    x, y = 8.0, top
    for text, reached in texts:
        width = len(text) * 7.4 + 22
        if x + width > format.width - 8 and x > 8:
            x, y = 8.0, y + 34
        yield Chip(text, x, y, round(width, 1), reached)
        x += width + 8
