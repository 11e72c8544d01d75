"""What ``inv nix.check`` finds out: syntax, evaluation of every node, and what the real tools say of the result.

Nothing is built. What could not be checked is part of the result, with the reason, and so is what evaluated it: inputs
that are not NixOS know neither its options nor its assertions.
Facts: systemd-analyze(1) verify, nft(8) --check, shellcheck(1); systemd-networkd has no check mode, so it is started
on the files in a network and mount namespace of its own and stopped once it has read them.
"""

import os
import resource
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

from smallkube.core import process
from smallkube.core.checks import Check, Result
from smallkube.core.errors import SmallkubeError, UsageError, listed
from smallkube.nix import flake, hosts, lockfile, shellcheck, units
from smallkube.nix.bundle import write_tree
from smallkube.nix.flake import Description, Flake

AT_ONCE = 2
"""Evaluations at a time: of NixOS each takes about a gigabyte."""
BATCH = 10
"""Most nodes that one evaluation is of."""
BOOT = "boot and SSH"
"""The check of what a machine needs to boot and to be reached."""
LOCK = "lock"
"""The check whether nix/flake.lock is that of nix/flake.nix; a deploy says it, too."""
_NETWORKD_TIMEOUT = 20
_sound_units: set[tuple[object, ...]] = set()


class Described(NamedTuple):
    """What is kept of a node's description: the NixOS that evaluated it, and what the machine lacks to boot."""

    nixos: str
    lacking: Sequence[str]


class _Unavailable(SmallkubeError):
    """This machine can't answer the question, and why."""


def check(files: Mapping[str, bytes], nodes: Sequence[str], overrides: Mapping[str, str]) -> tuple[Check, ...]:
    """Check the configuration of ``nodes`` in ``files`` (relative path → content: everything that Nix sees).

    ``overrides`` names what is evaluated in the place of inputs of the flake (name → URL). One Check per complaint;
    its subject is the node, or "" for all. Raises UsageError when there is no such input, or the lock file is damaged,
    SmallkubeError when the temporary folder can't be written.
    """
    flake.require_sound_lock(files)
    with tempfile.TemporaryDirectory(prefix="smallkube-") as name:
        tree = Path(name).resolve() / "tree"
        write_tree(files, tree)
        described = dict[str, Described]()
        checks = [*_checks(tree, nodes, overrides, described)]
    words = hosts.lacking(files, nodes)
    return (*_lock(files, overrides), *checks, *(_needs(node, words[node], described.get(node)) for node in nodes))


def _lock(files: Mapping[str, bytes], overrides: Collection[str]) -> Iterator[Check]:
    """Inputs that were evaluated, and are not what nix/flake.lock pins."""
    for name, words in lockfile.stale(files.get(flake.LOCK_FILE), files[flake.FILE]).items():
        if name not in overrides:
            yield Check("", LOCK, Result.WARNING, f"stale: {name} {words}: inv nix.render --update-lock")


def _needs(node: str, words: Sequence[str], description: Described | None) -> Check:
    """Whether the machine can boot and be reached: NixOS' own answer, else that of the ``words`` in nix/hosts."""
    exact = bool(description and description.nixos)
    if missing := ", ".join(description.lacking if description and exact else words):
        return Check(node, BOOT, Result.WARNING, f"nix/hosts: {missing}; {hosts.HINT}")
    return Check(node, BOOT, Result.OK, "" if exact else "only the words in nix/hosts were compared")


def _checks(
    tree: Path, nodes: Sequence[str], overrides: Mapping[str, str], described: dict[str, Described]
) -> Iterator[Check]:
    """``described`` gets the nodes that could be evaluated."""
    parser, nix = process.find("nix-instantiate"), process.find("nix")
    if parser is None or nix is None:
        yield from _skipped("Nix is not installed here (Debian: nix-bin)", "syntax", "inputs", "evaluation", *_TOOLS)
        return
    yield from _of("", "syntax", _syntax_errors(parser, tree))
    try:
        evaluated = Flake(nix, flake.url(nix, tree), overrides)
        inputs = evaluated.inputs()
    except SmallkubeError as error:
        yield from _skipped(error.message, "inputs")
        yield from _skipped("the inputs of the flake could not be fetched", "evaluation", *_TOOLS)
        return
    if unknown := overrides.keys() - inputs.keys():
        hint = f"the inputs are {', '.join(inputs)}"
        raise UsageError(f"no input {', '.join(sorted(unknown))} to override", where="nix/flake.nix", hint=hint)
    yield Check("", "inputs", Result.OK, ", ".join(f"{name} {origin}" for name, origin in inputs.items()))
    found = _nodes(evaluated, nodes[:1], tree.parent, described)
    batches = _batches(nodes[1:])
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found += chain.from_iterable(pool.map(lambda each: _nodes(evaluated, each, tree.parent, described), batches))
    if described:
        yield _evaluator(nix, described.values())
    yield from found


def _batches(nodes: Sequence[str]) -> list[Sequence[str]]:
    """Batches of the same size, as many for each of those that are evaluated at a time."""
    count = -(-len(nodes) // (_batch() * AT_ONCE)) * AT_ONCE
    bounds = [len(nodes) * each // count for each in range(count + 1)] if count else []
    return [nodes[start:end] for start, end in pairwise(bounds) if start < end]


def _batch() -> int:
    """How many nodes to evaluate in one process, now that one was: half of the memory is for as much as it took each.

    A further node takes less than the first (of the stand-ins a quarter), in bytes per processor (getrusage(2): KiB).
    """
    took = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    return max(1, min(BATCH, process.free_memory() // 2 // AT_ONCE // max(took, 1)))


def _evaluator(nix: str, descriptions: Collection[Described]) -> Check:
    """What evaluated the nodes."""
    name = f"Nix {'.'.join(map(str, flake.version(nix)))}"
    if all(each.nixos for each in descriptions):
        versions = ", ".join(sorted({f"NixOS {each.nixos}" for each in descriptions}))
        return Check("", "evaluator", Result.OK, f"{name}, {versions}")
    detail = f"{name}, with inputs that are not NixOS: its options, assertions and packages were not checked"
    return Check("", "evaluator", Result.WARNING, detail)


def _syntax_errors(parser: str, tree: Path) -> list[str]:
    """The files that Nix can't parse, each with the reason; one by one only when some can't be."""
    offline = {"NIX_REMOTE": "dummy://", "NIX_PATH": "", "NIX_CONFIG": "experimental-features ="}
    files = sorted(tree.rglob("*.nix"))
    if process.run([parser, "--parse", *files], environment=offline).ok:
        return []
    results = {file: process.run([parser, "--parse", file], environment=offline) for file in files}
    said = {file: flake.reason(done.stderr).replace(f"{tree}/", "") for file, done in results.items() if not done.ok}
    return [f"{file.relative_to(tree)}: {reason}" for file, reason in said.items()]


def _nodes(evaluated: Flake, nodes: Sequence[str], work: Path, described: dict[str, Described]) -> list[Check]:
    """All about ``nodes``, evaluated together, or one by one when one of them can't be."""
    try:
        found = evaluated.describe(nodes)
    except SmallkubeError as error:
        if len(nodes) == 1:
            return [Check(nodes[0], "evaluation", Result.FAILED, error.message)]
        return [check for node in nodes for check in _nodes(evaluated, [node], work, described)]
    described |= {node: Described(each["nixos"], each["lacking"]) for node, each in found.items()}
    return [check for node in nodes for check in _node(node, found.pop(node), work)]


def _node(node: str, description: Description, work: Path) -> Iterator[Check]:
    yield Check(node, "evaluation", Result.OK)
    yield from _of(node, "assertions", description["failedAssertions"])
    yield from (Check(node, "warnings", Result.WARNING, text) for text in description["warnings"])
    if unknown := description["unknown"]:
        yield Check(node, "options", Result.SKIPPED, f"unknown to these inputs: {listed(unknown, 5)}")
    for name, ask in _TOOLS.items():
        with tempfile.TemporaryDirectory(dir=work) as holder:
            (folder := Path(holder) / "files").mkdir()  # networkd, which is not root, must be able to read it
            try:
                yield from _of(node, name, ask(description, folder))
            except _Unavailable as error:
                yield Check(node, name, Result.SKIPPED, error.message)


def _of(subject: str, check: str, complaints: Iterable[str]) -> list[Check]:
    found = dict.fromkeys(complaints)
    return [Check(subject, check, Result.FAILED, text) for text in found] or [Check(subject, check, Result.OK)]


def _skipped(reason: str, *checks: str) -> Iterator[Check]:
    return (Check("", check, Result.SKIPPED, reason) for check in checks)


def _unit_files(description: Description, folder: Path) -> Iterable[str]:
    """``systemd-analyze verify`` of the units that the workspace defines.

    The programs that units start are those of the node, so their paths are replaced by one that exists here. Nodes
    whose units have the same shape are verified once, unless there is a complaint.
    """
    program = _find("systemd-analyze", "systemd")
    texts = {name: units.with_stubs(unit["text"], unit["dropin"]) for name, unit in description["units"].items()}
    names = sorted(name for name, unit in description["units"].items() if unit["enable"] and unit["own"])
    same = (program, *names), units.shape(texts)
    if not names or same in _sound_units:
        return ()
    _write(folder, texts)
    result = process.run(
        [program, "verify", "--man=no", *(folder / name for name in names)],
        environment={"SYSTEMD_UNIT_PATH": f"{folder}:", "SYSTEMD_LOG_TARGET": "console", "SYSTEMD_COLORS": "0"},
    )
    if result.stopped:
        raise _Unavailable("systemd-analyze did not come to an end")
    about = tuple(f"{name}:" for name in names)
    lines = result.stderr.splitlines()
    own = [line for line in lines if line.startswith(about) or any(f"{folder}/{name}" in line for name in names)]
    if not own:
        _sound_units.add(same)
    return [line.replace(f"{folder}/", "") for line in own]


def _rule_set(description: Description, folder: Path) -> Iterable[str]:
    """``nft --check`` of the whole rule set, in an empty network namespace."""
    program = _find("nft", "nftables")
    if not description["nftables"]:
        return ()
    _write(folder, {"rules.nft": description["nftables"]})
    result = process.run([*_namespace(), program, "--check", "--file", folder / "rules.nft"])
    if not result.ok and not process.run([*_namespace(), program, "list", "tables"]).ok:
        raise _Unavailable("nft can't be run in a network namespace of its own here")
    return () if result.ok else [line for line in result.stderr.replace(f"{folder}/", "").splitlines() if line]


def _network_files(description: Description, folder: Path) -> Iterable[str]:
    """What systemd-networkd itself says when it reads the node's files: unknown keys, values it ignores."""
    program = _find("systemd-networkd", "systemd", "/lib/systemd", "/usr/lib/systemd")
    if not description["networkd"]:
        return ()
    _write(folder, {name: file["text"] for name, file in description["networkd"].items()})
    isolated = (
        "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/netif /run/systemd/network && "
        'mount --bind "$1" /run/systemd/network && mount -t tmpfs tmpfs /etc/systemd && exec "$2"'
    )
    result = process.run(
        [*_namespace("--mount"), "sh", "-c", isolated, "sh", folder, program],
        until="Enumeration completed",
        timeout=_NETWORKD_TIMEOUT,
        environment={"SYSTEMD_LOG_TARGET": "console", "SYSTEMD_LOG_LEVEL": "info", "SYSTEMD_COLORS": "0"},
    )
    if result.stopped or "Enumeration completed" not in result.stderr:
        last = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise _Unavailable(f"systemd-networkd can't be run in a namespace here: {last}")
    complaints = [line.partition("/run/systemd/network/")[2] for line in result.stderr.splitlines()]
    own = tuple(name for name, file in description["networkd"].items() if file["own"])
    return [line for line in complaints if line.startswith(own)]


def _generated_scripts(description: Description, folder: Path) -> Iterable[str]:
    """shellcheck of every generated shell script and of the activation scripts.

    Those run as parts of one script of NixOS, hence without ``set -e`` and with its variables.
    """
    program = _find("shellcheck", "shellcheck")
    scripts = {f"{name}.sh": text for name, text in description["scripts"].items()}
    activation = {name: text for name, text in description["activationScripts"].items() if text}
    scripts |= {f"activation-{name}.sh": f"#!/bin/bash\n{text}\n" for name, text in activation.items()}
    faulty = {name: text for name, text in scripts.items() if not shellcheck.is_clean(program, text)}
    if not faulty:
        return ()
    _write(folder, faulty)
    result = process.run([program, "--shell=bash", "--format=gcc", *(folder / name for name in sorted(faulty))])
    complaints = result.stdout.replace(f"{folder}/", "").splitlines()
    return complaints or (() if result.ok else [result.stderr.strip() or "shellcheck failed"])


_TOOLS: Mapping[str, Callable[[Description, Path], Iterable[str]]] = {
    "units": _unit_files,
    "firewall": _rule_set,
    "network files": _network_files,
    "scripts": _generated_scripts,
}
"""Each takes a description and a private folder and returns complaints, or raises _Unavailable."""


def _find(program: str, package: str, *folders: str) -> str:
    found = process.find(program, *folders)
    if found is None:
        raise _Unavailable(f"{program} is not installed (Debian: {package})")
    return found


def _namespace(*more: str) -> list[str]:
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", "--net", *more, *as_root]


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)
