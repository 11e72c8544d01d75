"""From the facts of this machine to what each task lacks. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from smallkube.core.checks import Check, Result
from smallkube.doctor.facts import Facts
from smallkube.doctor.table import INSTALL, PYTHON_PACKAGES, TOOLS, Family, Tool, install_command

CORE = "keys.*, nix.render, deploy"
LAB = "lab.*, tests"
PYTHON, PROGRAMS, MACHINE, WORKSPACE = PARTS = ("Python", "programs", "this machine", "the workspace")


@dataclass(frozen=True)
class Finding(Check):
    """One thing that tasks need; its subject is one of PARTS, its detail the version or what is wrong.

    FAILED where keys.*, nix.render or deploy can't work, WARNING where only other tasks can't. ``install`` is the
    command that fixes it, ``package`` the distribution's package to install ("" when it is not that kind of thing).
    """

    needed_for: str = ""
    install: str = ""
    package: str = ""


def diagnose(facts: Facts, tools: Sequence[Tool] = TOOLS) -> tuple[Finding, ...]:
    """Everything that the tasks need, and whether it is here."""
    return (
        *_python(facts),
        *(_tool(facts, tool) for tool in tools),
        *_machine(facts),
        *_workspace(facts),
    )


def remedies(findings: Sequence[Finding], family: Family) -> tuple[str, ...]:
    """The commands that fix everything that is not ok, one for all packages together."""
    lacking = [finding for finding in findings if finding.result is not Result.OK]
    packages = tuple(dict.fromkeys(finding.package for finding in lacking if finding.package))
    others = dict.fromkeys(finding.install for finding in lacking if finding.install and not finding.package)
    together = install_command(family, packages)
    return tuple(filter(None, (together, *others)))


def _finding(
    part: str,
    name: str,
    needed_for: str,
    fault: str,
    found: str = "",
    *,
    essential: bool = False,
    install: str = "",
    package: str = "",
) -> Finding:
    """``fault`` is "" where nothing is wrong with what was ``found``."""
    if not fault:
        return Finding(part, name, Result.OK, found, needed_for)
    return Finding(part, name, Result.FAILED if essential else Result.WARNING, fault, needed_for, install, package)


def _python(facts: Facts) -> Iterator[Finding]:
    yield _finding(PYTHON, "python", "everything", "", facts.python)
    for text in facts.required:
        yield _package(facts, text, None, "pip install -e .")
    for text in facts.required_for_tests:
        yield _package(facts, text, "tests", "pip install -e '.[test]'")


def _package(facts: Facts, requirement: str, needed_for: str | None, install: str) -> Finding:
    name, _, least = (part.strip() for part in requirement.partition(">="))
    found = {_normal(package): version for package, version in facts.packages.items()}.get(_normal(name))
    fault = "missing" if found is None else f"{found}, not {least}" if _numbers(found) < _numbers(least) else ""
    purpose = needed_for or PYTHON_PACKAGES.get(_normal(name), "everything")
    return _finding(PYTHON, name, purpose, fault, found or "", essential=needed_for is None, install=install)


def _normal(name: str) -> str:
    """As PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    """What can be compared of a version: its leading numbers."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in leading[0].split(".")) if leading else ()


def _tool(facts: Facts, tool: Tool) -> Finding:
    missing = [program for program in tool.programs if program not in facts.programs]
    fault = "missing" if len(missing) == len(tool.programs) else f"no {', '.join(missing)}" if missing else ""
    found = facts.programs.get(tool.programs[0]) or "installed"
    package = tool.package_on(facts.family)
    install = f"{INSTALL[facts.family]} {package}"
    return _finding(
        PROGRAMS, tool.name, tool.needed_for, fault, found, essential=tool.essential, install=install, package=package
    )


def _machine(facts: Facts) -> Iterator[Finding]:
    yield _finding(MACHINE, "distribution", "installing packages", "", facts.distribution)
    yield _finding(MACHINE, "root", LAB, "" if facts.root else "not root", "root", install="run lab.* as root")
    yield _finding(MACHINE, "/dev/net/tun", LAB, "" if facts.tun else "missing", "there", install="modprobe tun")


def _workspace(facts: Facts) -> Iterator[Finding]:
    count = len(facts.nodes)
    missing = facts.inventory is None
    hint = "write inventory.yaml (docs/operating.md), or set SMALLKUBE_WORKSPACE" if missing else "inv inventory.check"
    nodes = f"{count} node{'s' if count > 1 else ''}"
    fault = "missing" if facts.inventory is None else facts.inventory
    yield _finding(WORKSPACE, "inventory.yaml", CORE, fault, nodes, essential=True, install=hint)
    if facts.without_host_key is not None:
        lacking = len(facts.without_host_key)
        fault = f"{lacking} of {count} missing" if lacking else ""
        purpose = "keys.generate, deploy, nodes.*"
        yield _finding(WORKSPACE, "keys/hosts", purpose, fault, f"all {count}", install="inv keys.scan")
    yield _master_key(facts.master_mode)


def _master_key(mode: int | None) -> Finding:
    name, purpose = "keys/master_key", "keys.rekey, keys.show, keys.edit"
    if mode is None:
        hint = "inv keys.generate makes one for a new cluster; else restore it from your offline copy"
        return _finding(WORKSPACE, name, purpose, "missing", install=hint)
    fault = "" if mode == 0o600 else f"mode {mode:04o}, not 0600"
    return _finding(WORKSPACE, name, purpose, fault, "mode 0600", essential=True, install="chmod 600 keys/master_key")
