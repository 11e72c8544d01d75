"""Kills work on keys/ before one of its changes on disk, and tells whether keys/ is whole then."""

import os
import signal
import sys
from collections.abc import Callable
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


def killed_at(step: int, folder: Path, work: Callable[[], None]) -> bool:
    """Do ``work`` in a forked process that kills itself before its ``step``-th change under ``folder``.

    The steps are the audit events of opening for writing, renaming, linking and removing a file (PEP 578).
    """
    child = os.fork()
    if child == 0:
        left = [step]

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            changes = event in ("os.rename", "os.link", "os.remove") or (
                event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            )
            if changes and str(arguments[0]).startswith(str(folder)):
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


def restore(cluster: Any, content: dict[str, bytes]) -> None:
    """Give keys/ this content, and nothing else."""
    for name in cluster.content().keys() - content.keys():
        (cluster.keys / name).unlink()
    for name, data in content.items():
        (cluster.keys / name).write_bytes(data)
