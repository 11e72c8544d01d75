"""What ``inv nix.check`` finds out: syntax, evaluation of every node, and what the real tools say of the result.

Nothing is built and nothing outside of a private temporary folder is written. What could not be checked is part of the
report, with the reason.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from smallkube.core import process
from smallkube.core.errors import SmallkubeError
from smallkube.nix import consistency, verify
from smallkube.nix.evaluate import Description, evaluate, syntax_errors

CLUSTER = "cluster"
"""Stands for the node in findings about all nodes together."""


class Outcome(StrEnum):
    OK = "ok"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Finding:
    """One check of one node (or of the cluster); ``details`` are complaints, or why it was not checked."""

    node: str
    check: str
    outcome: Outcome
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All findings, in the order of the checks; ``descriptions`` of the nodes that evaluate."""

    findings: tuple[Finding, ...]
    descriptions: Mapping[str, Description]

    @property
    def failed(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.outcome is Outcome.FAILED)

    @property
    def not_checked(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.outcome is Outcome.NOT_CHECKED)


_TOOLS: tuple[tuple[str, Callable[[Description, Path], verify.Answer]], ...] = (
    ("units", verify.unit_files),
    ("firewall", verify.rule_set),
    ("network files", verify.network_files),
    ("scripts", verify.generated_scripts),
)


def check(files: Mapping[str, bytes], nodes: Sequence[str], lib: Path | None = None) -> Report:
    """Check the configuration of ``nodes`` in ``files`` (relative path → content: everything that Nix sees).

    ``lib`` is nixpkgs' own lib to evaluate with; None: the subset in ``lab/nix/lib``. Raises SmallkubeError when the
    temporary folder can't be written.
    """
    with tempfile.TemporaryDirectory(prefix="smallkube-nix-") as name:
        folder = Path(name).resolve()
        tree = folder / "tree"
        materialise(files, tree)
        return _check_tree(tree, tuple(nodes), lib, folder / "tools")


def materialise(files: Mapping[str, bytes], folder: Path) -> None:
    """Write ``files`` (relative path → content) under the new ``folder``, which only this user can read.

    For reading them once: nothing is made durable, unlike what ``remote.bundle`` writes.

    Raises SmallkubeError when that fails, ``folder`` exists, or a path would lead out of it.
    """
    try:
        folder.mkdir(parents=True, mode=0o700)
        for relative, content in files.items():
            path = folder / relative
            if not path.resolve().is_relative_to(folder.resolve()):
                raise SmallkubeError("leads out of the tree", where=relative)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise SmallkubeError(f"can't be written: {error.strerror}", where=str(folder)) from error


def _check_tree(tree: Path, nodes: tuple[str, ...], lib: Path | None, work: Path) -> Report:
    nix = process.find("nix-instantiate")
    if nix is None:
        reason = "nix-instantiate is not installed (Debian: nix-bin)"
        checks = ("syntax", "evaluation", *(name for name, _ in _TOOLS), "consistency")
        return Report(tuple(Finding(CLUSTER, check, Outcome.NOT_CHECKED, (reason,)) for check in checks), {})
    errors = syntax_errors(nix, sorted(tree.rglob("*.nix")))
    findings = [_finding(CLUSTER, "syntax", [f"{file.relative_to(tree)}: {text}" for file, text in errors.items()])]
    descriptions, unevaluated = _evaluate_all(nix, tree, nodes, lib)
    findings += [_finding(node, "evaluation", [text]) for node, text in unevaluated.items()]
    with ThreadPoolExecutor(max_workers=4) as pool:
        for found in pool.map(lambda node: _check_node(node, descriptions[node], work / node), descriptions):
            findings += found
    findings.append(_check_fleet(tree, descriptions))
    return Report(tuple(findings), descriptions)


def _check_fleet(tree: Path, descriptions: Mapping[str, Description]) -> Finding:
    rendered = {path.stem for path in (tree / "nix" / "rendered").glob("node*.nix")}
    missing = sorted(rendered - set(descriptions), key=lambda name: (len(name), name))
    if missing:
        reason = f"needs every node, and {', '.join(missing)} can't be evaluated or was not asked for"
        return Finding(CLUSTER, "consistency", Outcome.NOT_CHECKED, (reason,))
    return _finding(CLUSTER, "consistency", consistency.fleet_complaints(descriptions))


def _evaluate_all(
    nix: str, tree: Path, nodes: tuple[str, ...], lib: Path | None
) -> tuple[dict[str, Description], dict[str, str]]:
    """Descriptions, and the errors of nodes that have none; one by one only when they can't all be had at once."""
    try:
        return evaluate(nix, tree, nodes, lib=lib), {}
    except SmallkubeError as error:
        if len(nodes) == 1:
            return {}, {nodes[0]: _in_tree(error.message, tree)}
    descriptions: dict[str, Description] = {}
    errors: dict[str, str] = {}
    for node in nodes:
        found, failed = _evaluate_all(nix, tree, (node,), lib)
        descriptions |= found
        errors |= failed
    return descriptions, errors


def _in_tree(text: str, tree: Path) -> str:
    return text.replace(f"{tree}/", "")


def _check_node(node: str, description: Description, work: Path) -> list[Finding]:
    findings = [
        _finding(node, "evaluation", ()),
        _finding(node, "assertions", description["failedAssertions"]),
    ]
    if description["warnings"]:
        findings.append(Finding(node, "warnings", Outcome.OK, tuple(description["warnings"])))
    if description["unsupported"]:
        reason = f"set, but unknown to the evaluator: {', '.join(description['unsupported'])}"
        findings.append(Finding(node, "own options", Outcome.NOT_CHECKED, (reason,)))
    for name, ask in _TOOLS:
        answer = ask(description, work / name.replace(" ", "-"))
        if isinstance(answer, verify.Unavailable):
            findings.append(Finding(node, name, Outcome.NOT_CHECKED, (answer.reason,)))
        else:
            findings.append(_finding(node, name, answer))
    findings.append(_finding(node, "consistency", consistency.node_complaints(description)))
    return findings


def _finding(node: str, check: str, complaints: Sequence[str]) -> Finding:
    return Finding(node, check, Outcome.FAILED if complaints else Outcome.OK, tuple(complaints))
