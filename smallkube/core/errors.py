"""The one exception family: what is wrong, where, and what to do about it, on one line."""

import errno
import re
from collections.abc import Iterable, Sequence

HARMFUL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys instead of showing it, but for line breaks and tabs; and what has no encoding."""
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading JSON of an unexpected shape raises."""
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_HINTS = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "the file system must be writable",
    errno.EACCES: "check its owner; chown it after a run with sudo",
    errno.EPERM: "check its owner, and that its file system keeps modes",
    errno.ENOLCK: "use a file system with locks",
    errno.EIO: "check the disk",
}


class SmallkubeError(Exception):
    """An operation that could not complete, or a check that failed (exit status 1).

    ``where`` is a file and line or a host, ``hint`` is what the operator can do.
    """

    exit_status = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return one_line(f"{text}; {self.hint}" if self.hint else text)


class UsageError(SmallkubeError):
    """Wrong usage, inventory or a missing prerequisite; nothing was changed (exit status 2)."""

    exit_status = 2


class ErrorGroup(SmallkubeError):
    """Several problems of one input, found together; one line each.

    The exit status is that of the gravest part (2 before 1).
    """

    def __init__(self, problems: Sequence[SmallkubeError]) -> None:
        super().__init__(f"{len(problems)} problems")
        self.problems = tuple(problems)
        self.exit_status = max((problem.exit_status for problem in problems), default=1)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def of_os(error: OSError, what: str = "can't be used", where: object = None) -> SmallkubeError:
    """What the operating system refused, ``where`` (by default the file that it names), as one line."""
    reason = f"{what}: {error.strerror or error or type(error).__name__}"
    named = where or error.filename
    return SmallkubeError(reason, where=None if named is None else str(named), hint=_HINTS.get(error.errno or 0))


def visible(text: str) -> str:
    """``text`` of several lines, without its colours and with the other control characters made visible."""
    text = _COLOUR.sub("", text).replace("\r\n", "\n")
    return HARMFUL.sub(lambda found: repr(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """``text`` with control characters (line breaks, terminal escapes) made visible instead of obeyed."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def split_lines(text: str) -> list[str]:
    """The lines of a file or an answer, which end with LF or CRLF: splitlines() also ends them at U+2028 and others."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Names for a message, not more than ``limit`` of them."""
    given = list(names)
    rest = f" and {len(given) - limit} more" if len(given) > limit else ""
    return ", ".join(given[:limit]) + rest
