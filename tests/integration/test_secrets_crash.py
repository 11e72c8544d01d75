"""kill -9 of `keys.generate` and `keys.rekey`, then the same command again.

After each kill every file that is there is whole and none that was there is lost; after the next run everything is
complete and consistent. The work is killed before every single change that it makes on disk, one after the other; a few
random kills strike the real command, when keys/ has come to a random state.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from smallkube.secrets import age, certificates
from smallkube.secrets import edit as editing
from smallkube.secrets import generate as making
from smallkube.secrets import rekey as rekeying
from smallkube.secrets.check import check
from smallkube.secrets.store import changing_keys

NODES = tuple(range(1, 13))
ROUNDS = 3
FILES = 62
"""Names in keys/ after a full run with these nodes."""


def kill_once(cluster: Any, task: str, progress: Callable[[], int], goal: int) -> None:
    """Run ``task`` (and flags), kill it once ``progress()`` has come to ``goal``; let it end when it never does."""
    process = subprocess.Popen(
        cluster.command(*task.split()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=cluster.environment(),
    )
    while process.poll() is None and progress() < goal:
        time.sleep(0.0002)
    process.send_signal(signal.SIGKILL)
    process.wait()


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
    assert {proof for _, proof in report.proofs} == {"decrypted"}
    assert list(cluster.keys.rglob(".tmp-*")) == []
    before = cluster.snapshot()
    generate(cluster)
    assert cluster.snapshot() == before
    private = cluster.keys / "master_key"
    private.rename(cluster.private / "master_key")
    report = check(cluster.cluster)
    assert {proof for _, proof in report.proofs} == {"recorded"}
    assert report.problems == ()


def files_there(cluster: Any) -> int:
    """How far generation has come: names in keys/, temporary ones too."""
    return len(list(cluster.keys.iterdir()))


def generate_round(cluster: Any) -> None:
    kept: dict[str, bytes] = {}
    for _ in range(2):
        begun = files_there(cluster)
        kill_once(cluster, "keys.generate", lambda: files_there(cluster), random.randint(begun, FILES))
        now = {name: data for name, data in cluster.content().items() if name.endswith((".age", ".crt", "master_key"))}
        assert {name: now.get(name) for name in kept} == kept
        plaintexts(cluster)
        kept = now
    cluster.done("keys.generate")
    assert {name: cluster.content()[name] for name in kept} == kept
    assert_complete(cluster)


def rekey_round(cluster: Any) -> None:
    secret = plaintexts(cluster)
    sizes = {name: len(data) for name, data in cluster.content().items()}

    def replaced() -> int:
        temporary = len(list(cluster.keys.glob(".tmp-*.age.*")))
        total: int = temporary + sum((cluster.keys / name).stat().st_size != sizes[name] for name in secret)
        return total

    for _ in range(2):
        kill_once(cluster, "keys.rekey", replaced, random.randint(0, len(secret)))
        assert plaintexts(cluster) == secret
    cluster.done("keys.rekey")
    assert plaintexts(cluster) == secret
    assert_complete(cluster)


def all_rounds(body: Callable[[Any], None], clusters: list[Any]) -> None:
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(body, cluster) for cluster in clusters]:
            future.result()


def test_the_generate_command_killed_at_random(make_cluster: Callable[..., Any]) -> None:
    all_rounds(generate_round, [make_cluster(NODES, f"ws{n}") for n in range(ROUNDS)])


def test_the_rekey_command_killed_at_random(make_cluster: Callable[..., Any]) -> None:
    clusters = [make_cluster(NODES, f"ws{n}") for n in range(ROUNDS)]
    for cluster in clusters:
        making.act(cluster.cluster, making.plan(cluster.cluster))
        cluster.new_host_key("node1")  # the primary reads most of them
        cluster.new_host_key("node2")
    all_rounds(rekey_round, clusters)


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


def rekey(cluster: Any) -> None:
    with changing_keys(cluster.workspace):
        rekeying.act(cluster.cluster, rekeying.plan(cluster.cluster))


def test_generate_killed_before_each_single_change(make_cluster: Callable[..., Any]) -> None:
    cluster = make_cluster((1, 2))
    for step in count(1):
        for path in cluster.keys.iterdir():
            if path.is_file():
                path.unlink()
        if not killed_at(step, cluster.keys, lambda: generate(cluster)):
            break
        kept = {name: data for name, data in cluster.content().items() if name.endswith((".age", ".crt", "master_key"))}
        plaintexts(cluster)
        generate(cluster)
        assert {name: cluster.content().get(name) for name in kept} == kept
        assert check(cluster.cluster).problems == ()
    assert step > 60


def test_rekey_killed_before_each_single_change(make_cluster: Callable[..., Any]) -> None:
    cluster = make_cluster((1, 2))
    generate(cluster)
    secret = plaintexts(cluster)
    for step in count(1):
        cluster.new_host_key("node1")
        if not killed_at(step, cluster.keys, lambda: rekey(cluster)):
            break
        assert plaintexts(cluster) == secret
        rekey(cluster)
        assert plaintexts(cluster) == secret
        assert check(cluster.cluster).problems == ()
    assert step > 20


def edited(cluster: Any) -> None:
    """A new key for a certificate, which is issued anew with it."""
    with changing_keys(cluster.workspace):
        editing.edit(
            cluster.cluster,
            "apiserver.key",
            lambda _name, _before: certificates.new_key(),
        )


def test_edit_killed_before_each_single_change(make_cluster: Callable[..., Any]) -> None:
    cluster = make_cluster((1, 2))
    generate(cluster)
    changed = 0
    for step in count(1):
        before = plaintexts(cluster)
        if not killed_at(step, cluster.workspace.root, lambda: edited(cluster)):
            break
        with changing_keys(cluster.workspace):
            pass
        assert check(cluster.cluster).problems == ()
        changed += plaintexts(cluster) != before
    assert step > 5 and changed > 3
