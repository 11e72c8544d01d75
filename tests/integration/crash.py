"""Kills work on keys/ before one of its changes on disk, and tells whether keys/ is whole then."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from smallkube.secrets import age
from smallkube.secrets import generate as making
from smallkube.secrets.audit import check
from smallkube.secrets.transaction import changing_keys


def plaintexts(cluster: Any) -> dict[str, bytes]:
    """What every secret holds; raises when one is not whole."""
    master_key = cluster.workspace.master_key
    if not master_key.exists():
        return {}
    master = age.parse_master(master_key.read_text(), "master_key")
    return {path.name: age.decrypt(path.read_bytes(), master, path.name) for path in cluster.keys.glob("*.age")}


def assert_complete(cluster: Any) -> None:
    report = check(cluster.cluster)
    assert report.problems == ()
    assert {finding.proof for finding in report.findings} == {"decrypted"}
    assert list(cluster.keys.rglob(".tmp-*")) == []
    before = cluster.snapshot()
    generate(cluster)
    assert cluster.snapshot() == before
    private = cluster.keys / "master_key"
    private.rename(cluster.private / "master_key")
    report = check(cluster.cluster)
    assert {finding.proof for finding in report.findings} == {"recorded"}
    assert report.problems == ()


def _changes(folder: Path, event: str, arguments: tuple[Any, ...]) -> bool:
    changes = event in ("os.rename", "os.link", "os.remove") or (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    )
    return bool(changes) and str(arguments[0]).startswith(str(folder))


Files = dict[Path, tuple[bytes, int]]
"""Content and mode."""
_watched: list[tuple[Path, Callable[[], object]]] = []


@cache
def _watch() -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        for folder, act in _watched:
            if _changes(folder, event, arguments):
                act()

    sys.addaudithook(hook)


def _files(folder: Path) -> Files:
    return {path: (path.read_bytes(), path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


def before_changes(folder: Path, act: Callable[[], object], work: Callable[[], object]) -> None:
    """Do ``work``, and ``act`` before each change that it makes in ``folder``."""
    _watch()
    _watched.append((folder, act))
    try:
        work()
    finally:
        _watched.clear()


def kills(folder: Path, work: Callable[[], None]) -> Iterator[int]:
    """Do ``work`` once; then ``folder`` is as a kill before each change there would have left it (the step), at last
    as the work did (0). The steps are those of ``killed_at``, which does the work again for each.
    """
    found: list[Files] = []
    before_changes(folder, lambda: found.append(_files(folder)), work)
    for step, files in [*enumerate(found, 1), (0, _files(folder))]:
        there = _files(folder)
        for path in there.keys() - files.keys():
            path.unlink()
        for path, (data, mode) in files.items():
            if there.get(path) != (data, mode):
                path.write_bytes(data)
                path.chmod(mode)
        yield step


def killed_at(step: int, folder: Path, work: Callable[[], None]) -> bool:
    """Do ``work`` in a forked process that kills itself before its ``step``-th change under ``folder``.

    The steps are the audit events of opening for writing, renaming, linking and removing a file (PEP 578).
    """
    child = os.fork()
    if child == 0:
        left = [step]

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if _changes(folder, event, arguments):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            sys.addaudithook(hook)
            work()
            status = 0
        finally:
            os._exit(status)
    _, result = os.waitpid(child, 0)
    assert os.WIFSIGNALED(result) or os.waitstatus_to_exitcode(result) == 0
    return os.WIFSIGNALED(result)


def generate(cluster: Any) -> None:
    with changing_keys(cluster.workspace):
        making.act(cluster.cluster, making.plan(cluster.cluster))


def locked(cluster: Any) -> None:
    """What any next command that changes keys/ does first."""
    with changing_keys(cluster.workspace):
        pass


def assert_sound(cluster: Any, known: list[dict[str, bytes]]) -> None:
    """Nothing is wrong with keys/; what is ``known`` to be so is not checked again, and what is not becomes known."""
    content = cluster.content()
    if content not in known:
        assert check(cluster.cluster).problems == ()
        known.append(content)
