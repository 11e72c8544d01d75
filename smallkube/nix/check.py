"""What ``inv nix.check`` finds out: syntax, evaluation of every node, and what the real tools say of the result.

Nothing is built. What could not be checked is part of the result, with the reason.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from smallkube.core import process
from smallkube.core.checks import Check, Result
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.nix import build, verify
from smallkube.nix.bundle import write_tree
from smallkube.nix.evaluate import Description, Flake, syntax_errors

AT_ONCE = 2
"""Evaluations at a time: each of a whole system, which takes about a gigabyte."""

_TOOLS: Mapping[str, Callable[[Description, Path], verify.Answer]] = {
    "units": verify.unit_files,
    "firewall": verify.rule_set,
    "network files": verify.network_files,
    "scripts": verify.generated_scripts,
}


def check(files: Mapping[str, bytes], nodes: Sequence[str], overrides: Mapping[str, str]) -> tuple[Check, ...]:
    """Check the configuration of ``nodes`` in ``files`` (relative path → content: everything that Nix sees).

    ``overrides`` names what is evaluated in the place of inputs of the flake (name → URL). One Check per complaint;
    its subject is the node, or "" for all. Raises UsageError when there is no such input,
    SmallkubeError when the temporary folder can't be written.
    """
    with tempfile.TemporaryDirectory(prefix="smallkube-") as name:
        tree = Path(name).resolve() / "tree"
        write_tree(files, tree)
        return tuple(_checks(tree, nodes, overrides))


def _checks(tree: Path, nodes: Sequence[str], overrides: Mapping[str, str]) -> Iterator[Check]:
    parser, nix = process.find("nix-instantiate"), process.find("nix")
    if parser is None or nix is None:
        yield from _skipped("Nix is not installed here (Debian: nix-bin)", "syntax", "inputs", "evaluation", *_TOOLS)
        return
    errors = syntax_errors(parser, sorted(tree.rglob("*.nix")))
    yield from _of("", "syntax", [f"{file.relative_to(tree)}: {text}" for file, text in errors.items()])
    try:
        flake = Flake(nix, build.flake_url(nix, tree), overrides)
        inputs = flake.inputs()
    except SmallkubeError as error:
        yield from _skipped(error.message, "inputs", "evaluation", *_TOOLS)
        return
    if unknown := overrides.keys() - inputs.keys():
        hint = f"the inputs are {', '.join(inputs)}"
        raise UsageError(f"no input {', '.join(sorted(unknown))} to override", where="nix/flake.nix", hint=hint)
    yield Check("", "inputs", Result.OK, ", ".join(f"{name} {origin}" for name, origin in inputs.items()))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for found in pool.map(lambda node: _node(flake, node, tree.parent / node), nodes):
            yield from found


def _node(flake: Flake, node: str, work: Path) -> list[Check]:
    try:
        description = flake.describe(node)
    except SmallkubeError as error:
        return [Check(node, "evaluation", Result.FAILED, error.message)]
    checks = [Check(node, "evaluation", Result.OK), *_of(node, "assertions", description["failedAssertions"])]
    checks += [Check(node, "warnings", Result.WARNING, text) for text in description["warnings"]]
    for name, ask in _TOOLS.items():
        answer = ask(description, work / name.replace(" ", "-"))
        if isinstance(answer, verify.Unavailable):
            checks.append(Check(node, name, Result.SKIPPED, answer.reason))
        else:
            checks += _of(node, name, answer)
    return checks


def _of(subject: str, check: str, complaints: Iterable[str]) -> list[Check]:
    return [Check(subject, check, Result.FAILED, text) for text in complaints] or [Check(subject, check, Result.OK)]


def _skipped(reason: str, *checks: str) -> Iterator[Check]:
    return (Check("", check, Result.SKIPPED, reason) for check in checks)
