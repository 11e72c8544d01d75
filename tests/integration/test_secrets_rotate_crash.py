"""kill -9 of `keys.rotate-wireguard`, then the same command or `keys.generate`.

After each kill every file is whole and no other secret has changed; private keys and peers.json fit each other, or
keys/ is marked as unfinished, which keys.check says and no bundle is made of. The next command makes it complete, all
without the master's private key. The work is killed before every single change that it makes on disk; some random kills
strike the real command.
"""

import random
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from smallkube.core.errors import UsageError
from smallkube.nix import bundle
from smallkube.operations import wireguard
from smallkube.secrets import age, journal, kinds, peers
from smallkube.secrets.check import check
from smallkube.secrets.store import changing_keys
from tests.integration.test_secrets_crash import all_rounds, assert_complete, generate, kill_once, killed_at

NODES = tuple(range(1, 13))
RUNS = 3
ROTATE = "keys.rotate-wireguard --yes"
DERIVED = {"peers.json", "recipients.json"}


def master(cluster: Any) -> age.Master:
    return age.parse_master((cluster.private / "master_key").read_text(), "master_key")


def others(cluster: Any) -> dict[str, bytes]:
    """What a rotation must not touch."""
    return {
        name: data
        for name, data in cluster.content().items()
        if not name.startswith(("wgkube", ".tmp-")) and name not in DERIVED
    }


def fits(cluster: Any) -> bool:
    """Whether peers.json has the public key of each private one; raises when a file is not whole."""
    published = peers.public_keys(peers.read(cluster.workspace))
    private = {
        index: age.decrypt((cluster.keys / f"wgkube{index}.key.age").read_bytes(), master(cluster), str(index))
        for index in published
    }
    return published == {index: kinds.wireguard_public(text, str(index)) for index, text in private.items()}


def assert_whole_or_marked(cluster: Any) -> None:
    if not journal.unfinished(cluster.workspace):
        assert fits(cluster)
        return
    fits(cluster)
    assert ("peers.json", "inv keys.generate") in [
        (problem.file, problem.mend) for problem in check(cluster.cluster).problems
    ]
    with pytest.raises(UsageError, match="interrupted"):
        bundle.assemble(cluster.cluster)


def assert_rotated(cluster: Any) -> None:
    assert journal.unfinished(cluster.workspace) == () and fits(cluster)
    assert [path.name for path in cluster.workspace.state_dir.iterdir()] == ["keys.lock"]
    (cluster.private / "master_key").rename(cluster.workspace.master_key)
    assert_complete(cluster)  # which takes the private key away again


def rotate_round(cluster: Any) -> None:
    kept = others(cluster)
    inodes = {path: path.stat().st_ino for path in cluster.keys.iterdir()}

    def progress() -> int:
        temporary = len(list(cluster.keys.glob(".tmp-*")))
        marked = bool(list(cluster.workspace.state_dir.glob("*.json")))
        return temporary + marked + len([path for path, inode in inodes.items() if path.stat().st_ino != inode])

    kill_once(cluster, ROTATE, progress, random.randint(0, 2 * len(NODES)))
    assert {name: data for name, data in others(cluster).items() if ".tmp-" not in name} == kept
    assert_whole_or_marked(cluster)
    cluster.done(*random.choice((ROTATE, "keys.generate")).split())
    assert others(cluster) == kept
    assert_rotated(cluster)


def ready(make_cluster: Callable[..., Any], nodes: tuple[int, ...], name: str) -> Any:
    """Everything generated, the master's private key elsewhere."""
    cluster = make_cluster(nodes, name)
    generate(cluster)
    cluster.without_master()
    return cluster


def test_the_command_killed_at_random(make_cluster: Callable[..., Any]) -> None:
    all_rounds(rotate_round, [ready(make_cluster, NODES, f"ws{n}") for n in range(RUNS)])


def rotated(cluster: Any) -> None:
    with changing_keys(cluster.workspace):
        planned = wireguard.plan(cluster.cluster)
        wireguard.act(cluster.cluster, planned)


@pytest.mark.parametrize("again", [rotated, generate])
def test_rotation_killed_before_each_single_change(
    make_cluster: Callable[..., Any], again: Callable[[Any], None]
) -> None:
    cluster = ready(make_cluster, (1, 2, 3), "ws")
    marked = 0
    for step in count(1):
        if not killed_at(step, cluster.workspace.root, lambda: rotated(cluster)):
            break
        marked += bool(journal.unfinished(cluster.workspace))
        assert_whole_or_marked(cluster)
        again(cluster)
        assert_rotated(cluster)
    assert step > 15 and marked > 10


def test_the_same_command_completes_what_it_began_and_makes_no_second_key(make_cluster: Callable[..., Any]) -> None:
    cluster = ready(make_cluster, (1, 2), "ws")
    for step in count(1):
        assert killed_at(step, cluster.workspace.root, lambda: rotated(cluster))
        if journal.unfinished(cluster.workspace):
            break
    before = cluster.content()
    run = cluster.inv("keys.rotate-wireguard")
    assert run.returncode == 0 and "completed an interrupted change" in run.stderr, run.stderr
    assert cluster.content() != before
    assert_rotated(cluster)
