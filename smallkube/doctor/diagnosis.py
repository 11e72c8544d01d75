"""From what was found on this machine to rows and a verdict. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from smallkube.doctor.table import INSTALL, PYTHON_PACKAGES, TOOLS, Family, Tool, install_command

CORE = "keys.*, nix.render, deploy"
LAB = "lab.*, tests"


class State(StrEnum):
    OK = "ok"
    MISSING = "missing"
    WRONG = "wrong"


class Part(StrEnum):
    """The sections of the report."""

    PYTHON = "Python"
    PROGRAMS = "programs"
    MACHINE = "this machine"
    WORKSPACE = "the workspace"


@dataclass(frozen=True)
class Facts:
    """What was found. ``programs`` maps those that are there to their version ("" when they don't say).

    ``packages`` are the installed Python packages with versions, ``required`` and ``required_for_tests`` the
    requirements of pyproject.toml. ``inventory`` is None when there is no such file, else "" or what is wrong with it;
    ``master_mode`` None when there is no master key; ``without_host_key`` None when the nodes are not known.
    """

    family: Family
    distribution: str
    python: str
    packages: Mapping[str, str]
    required: Sequence[str]
    required_for_tests: Sequence[str]
    programs: Mapping[str, str]
    root: bool
    tun: bool
    inventory: str | None
    nodes: Sequence[str]
    without_host_key: Sequence[str] | None
    master_mode: int | None


@dataclass(frozen=True)
class Row:
    """One thing that a task needs. ``found`` is its version or what is there instead; ``install`` what mends it.

    ``package`` is the distribution's package to install, "" when it is not that kind of thing.
    """

    part: Part
    name: str
    state: State
    found: str
    needed_for: str
    essential: bool = False
    install: str = ""
    package: str = ""


def diagnose(facts: Facts, tools: Sequence[Tool] = TOOLS) -> tuple[Row, ...]:
    """Everything that the tasks need, and whether it is here."""
    return (
        *_python(facts),
        *(_tool(facts, tool) for tool in tools),
        *_machine(facts),
        *_workspace(facts),
    )


def blocking(rows: Sequence[Row]) -> tuple[Row, ...]:
    """What keeps the core tasks (keys.*, nix.render, deploy) from working."""
    return tuple(row for row in rows if row.essential and row.state is not State.OK)


def remedies(rows: Sequence[Row], family: Family) -> tuple[str, ...]:
    """The commands that mend everything that is not well, one for all packages together."""
    lacking = [row for row in rows if row.state is not State.OK]
    packages = tuple(dict.fromkeys(row.package for row in lacking if row.package))
    others = dict.fromkeys(row.install for row in lacking if row.install and not row.package)
    together = install_command(family, packages)
    return tuple(filter(None, (together, *others)))


def _python(facts: Facts) -> Iterator[Row]:
    yield Row(Part.PYTHON, "python", State.OK, facts.python, "everything", essential=True)
    for text in facts.required:
        yield _package(facts, text, None, "pip install -e .")
    for text in facts.required_for_tests:
        yield _package(facts, text, "tests", "pip install -e '.[test]'")


def _package(facts: Facts, requirement: str, needed_for: str | None, install: str) -> Row:
    name, least = _requirement(requirement)
    installed = {_normal(package): version for package, version in facts.packages.items()}.get(_normal(name))
    purpose = needed_for or PYTHON_PACKAGES.get(_normal(name), "everything")
    essential = needed_for is None
    if installed is None:
        return Row(Part.PYTHON, name, State.MISSING, "", purpose, essential, install)
    if _numbers(installed) < _numbers(least):
        return Row(Part.PYTHON, name, State.WRONG, f"{installed}, not {least}", purpose, essential, install)
    return Row(Part.PYTHON, name, State.OK, installed, purpose, essential)


def _requirement(text: str) -> tuple[str, str]:
    name, _, least = text.partition(">=")
    return name.strip(), least.strip()


def _normal(name: str) -> str:
    """As PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    """What can be compared of a version: its leading numbers."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in leading[0].split(".")) if leading else ()


def _tool(facts: Facts, tool: Tool) -> Row:
    missing = [program for program in tool.programs if program not in facts.programs]
    if not missing:
        found = facts.programs[tool.programs[0]] or "installed"
        return Row(Part.PROGRAMS, tool.name, State.OK, found, tool.needed_for, tool.essential)
    package = tool.package_on(facts.family)
    found = "" if len(missing) == len(tool.programs) else f"no {', '.join(missing)}"
    install = f"{INSTALL[facts.family]} {package}"
    return Row(Part.PROGRAMS, tool.name, State.MISSING, found, tool.needed_for, tool.essential, install, package)


def _machine(facts: Facts) -> Iterator[Row]:
    yield Row(Part.MACHINE, "distribution", State.OK, facts.distribution, "installing packages")
    root = (State.OK, "root", "") if facts.root else (State.MISSING, "not root", "run lab.* as root")
    yield Row(Part.MACHINE, "root", root[0], root[1], LAB, install=root[2])
    tun = (State.OK, "there", "") if facts.tun else (State.MISSING, "", "modprobe tun")
    yield Row(Part.MACHINE, "/dev/net/tun", tun[0], tun[1], LAB, install=tun[2])


def _workspace(facts: Facts) -> Iterator[Row]:
    yield _inventory(facts)
    if facts.without_host_key is not None:
        yield _host_keys(facts, facts.without_host_key)
    yield _master_key(facts.master_mode)


def _inventory(facts: Facts) -> Row:
    name = "inventory.yaml"
    if facts.inventory is None:
        hint = "write inventory.yaml (docs/operating.md), or set SMALLKUBE_WORKSPACE"
        return Row(Part.WORKSPACE, name, State.MISSING, "", CORE, essential=True, install=hint)
    if facts.inventory:
        return Row(
            Part.WORKSPACE, name, State.WRONG, facts.inventory, CORE, essential=True, install="inv inventory.check"
        )
    count = len(facts.nodes)
    return Row(Part.WORKSPACE, name, State.OK, f"{count} node{'s' if count > 1 else ''}", CORE, essential=True)


def _host_keys(facts: Facts, lacking: Sequence[str]) -> Row:
    purpose = "keys.generate, deploy, nodes.*"
    if not lacking:
        return Row(Part.WORKSPACE, "keys/hosts", State.OK, f"all {len(facts.nodes)}", purpose)
    found = f"{len(lacking)} of {len(facts.nodes)} missing"
    return Row(Part.WORKSPACE, "keys/hosts", State.MISSING, found, purpose, install="inv keys.scan")


def _master_key(mode: int | None) -> Row:
    name, purpose = "keys/master_key", "keys.rekey, keys.show, keys.edit"
    if mode is None:
        hint = "inv keys.generate makes one for a new cluster; else take your copy"
        return Row(Part.WORKSPACE, name, State.MISSING, "", purpose, install=hint)
    if mode != 0o600:
        found = f"mode {mode:04o}, not 0600"
        return Row(
            Part.WORKSPACE, name, State.WRONG, found, purpose, essential=True, install="chmod 600 keys/master_key"
        )
    return Row(Part.WORKSPACE, name, State.OK, "mode 0600", purpose)
