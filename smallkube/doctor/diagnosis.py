"""From the facts of this machine to what each task lacks. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from smallkube.core.checks import Check, Result
from smallkube.doctor.facts import Facts
from smallkube.doctor.table import PYTHON_PACKAGES, TOOLS, Family, Tool

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


def diagnose(facts: Facts) -> tuple[Finding, ...]:
    """Everything that the tasks need, and whether it is here."""
    return (*_python(facts), *(_tool(facts, tool) for tool in TOOLS), *_machine(facts), *_workspace(facts))


def remedies(findings: Sequence[Finding], family: Family) -> tuple[str, ...]:
    """The commands that fix everything that is not ok, one for all packages together."""
    lacking = [finding for finding in findings if finding.result is not Result.OK]
    packages = dict.fromkeys(finding.package for finding in lacking if finding.package)
    others = dict.fromkeys(finding.install for finding in lacking if finding.install and not finding.package)
    return (*([family.install(packages)] if packages else []), *others)


def _finding(
    part: str, name: str, needed_for: str, fault: str, found: str, install: str = "", *, essential: bool = False
) -> Finding:
    """``fault`` is "" where nothing is wrong with what was ``found``."""
    if not fault:
        return Finding(part, name, Result.OK, found, needed_for)
    return Finding(part, name, Result.FAILED if essential else Result.WARNING, fault, needed_for, install)


def _python(facts: Facts) -> Iterator[Finding]:
    yield _finding(PYTHON, "python", "everything", "", facts.python)
    installed = {_normal(name): version for name, version in facts.packages.items()}
    for requirement in (*facts.required, *facts.required_for_tests):
        name, _, least = requirement.partition(">=")
        found = installed.get(_normal(name), "")
        fault = "missing" if not found else f"{found}, not {least}" if _numbers(found) < _numbers(least) else ""
        if requirement in facts.required:
            purpose = PYTHON_PACKAGES.get(_normal(name), "everything")
            yield _finding(PYTHON, name, purpose, fault, found, "pip install -e .", essential=True)
        else:
            yield _finding(PYTHON, name, "tests", fault, found, "pip install -e '.[test]'")


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
    install = facts.family.install([package])
    finding = _finding(PROGRAMS, tool.name, tool.needed_for, fault, found, install, essential=tool.essential)
    return replace(finding, package=package) if fault else finding


def _machine(facts: Facts) -> Iterator[Finding]:
    yield _finding(MACHINE, "distribution", "installing packages", "", facts.distribution)
    yield _finding(MACHINE, "root", LAB, "" if facts.root else "not root", "root", "run lab.* as root")
    yield _finding(MACHINE, "/dev/net/tun", LAB, "" if facts.tun else "missing", "there", "modprobe tun")


def _workspace(facts: Facts) -> Iterator[Finding]:
    count, fault, hint = len(facts.nodes), facts.inventory, "inv inventory.check"
    if fault is None:
        fault, hint = "missing", "write inventory.yaml (docs/operating.md), or set SMALLKUBE_WORKSPACE"
    nodes = f"{count} node{'s' if count > 1 else ''}"
    yield _finding(WORKSPACE, "inventory.yaml", CORE, fault, nodes, hint, essential=True)
    if facts.nodes:
        lacking = len(facts.without_host_key)
        fault = f"{lacking} of {count} missing" if lacking else ""
        purpose = "keys.generate, deploy, nodes.*"
        yield _finding(WORKSPACE, "keys/hosts", purpose, fault, f"all {count}", "inv keys.scan")
    yield _identity(facts.identity, facts.master_mode)
    if facts.lock is not None:
        yield _finding(WORKSPACE, "nix/flake.lock", "security updates", facts.lock, "current")
    for file, (fault, fix) in facts.exposed.items():
        yield _finding(WORKSPACE, file, "git", fault, "", fix, essential=True)


def _identity(name: str, mode: int | None) -> Finding:
    purpose = "keys.rekey, keys.show, keys.edit"
    if mode is None:
        hint = "inv keys.generate makes one for a new cluster; else restore it, or set SMALLKUBE_IDENTITY"
        return _finding(WORKSPACE, name, purpose, "missing", "", hint)
    fault = "" if mode == 0o600 else f"mode {mode:04o}, not 0600"
    return _finding(WORKSPACE, name, purpose, fault, "mode 0600", f"chmod 600 {name}", essential=True)
