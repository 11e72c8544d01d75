"""Which tests there are, and how some of them are asked for. Pure."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import yaml

from smallkube.core.errors import SmallkubeError, UsageError

MOST_TESTS = 20_000
_MOST_CHARACTERS = 500
_LISTED = re.compile(r"^ +\S+\.go:\d+: (.+)$", re.MULTILINE)
_SIG = re.compile(r"\[(sig-[a-z-]+)\]")


@dataclass(frozen=True)
class Group:
    """Tests that run together: in several processes, or ``alone`` one after the other."""

    title: str
    names: tuple[str, ...]
    alone: bool


def parse(text: str) -> tuple[str, ...]:
    """The tests' names in what ``e2e.test --list-conformance-tests`` prints, in its order.

    Raises SmallkubeError when it is something else.
    """
    try:
        listed = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # in C where there is one
        names = tuple(dict.fromkeys(" ".join(test["codename"].split()) for test in listed))
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, RecursionError):
        names = ()
    return _plausible(names, "--list-conformance-tests")


def parse_all(text: str) -> tuple[str, ...]:
    """The same of all tests, from ``e2e.test --list-tests``: a line has the place in the source, and the name."""
    return _plausible(tuple(dict.fromkeys(" ".join(name.split()) for name in _LISTED.findall(text))), "--list-tests")


def _plausible(names: tuple[str, ...], flag: str) -> tuple[str, ...]:
    if not 0 < len(names) <= MOST_TESTS or any(not 0 < len(name) <= _MOST_CHARACTERS for name in names):
        raise SmallkubeError(f"unexpected output from e2e.test {flag}")
    return names


def select(names: Sequence[str], focus: str | None) -> tuple[str, ...]:
    """The tests whose names match the regular expression ``focus``, or all. Raises UsageError for none."""
    try:
        found = tuple(name for name in names if focus is None or re.search(focus, name))
    except re.error as error:
        raise UsageError(f"--focus {focus}: not a regular expression: {error}") from error
    if not found:
        raise UsageError(f"--focus {focus}: matches none of {len(names)} tests", hint="such as sig-network")
    return found


def groups(names: Sequence[str], done: Collection[str] = ()) -> tuple[Group, ...]:
    """What is not ``done``, in the order in which it runs: what disturbs other tests, or the whole cluster, last."""
    parts: dict[str, list[str]] = {"parallel": [], "serial": [], "disruptive": []}
    for name in names:
        part = "disruptive" if "[Disruptive]" in name else "serial" if "[Serial]" in name else "parallel"
        if name not in done:
            parts[part].append(name)
    return tuple(Group(title, tuple(part), title != "parallel") for title, part in parts.items() if part)


def pattern(name: str) -> str:
    """A regular expression of Go's that finds just this test behind the description of the suite."""
    return rf" {r' +'.join(re.escape(word) for word in name.split())} *$"


def sig(name: str) -> str:
    """The special interest group that owns a test."""
    found = _SIG.search(name)
    return found[1] if found else "other"
