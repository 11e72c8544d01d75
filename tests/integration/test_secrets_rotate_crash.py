"""kill -9 of `keys.rotate-wireguard`, then the same command or `keys.generate`.

After each kill every file is whole and no other secret has changed; private keys and peers.json fit each other, or
keys/ is marked as unfinished, which keys.check says and no bundle is made of. The next command makes it complete, all
without the master's private key. The work is killed before every single change that it makes on disk.
"""

import os
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from smallkube.core.errors import UsageError
from smallkube.nix import bundle
from smallkube.operations import wireguard
from smallkube.secrets import age, kinds, peers, transaction
from smallkube.secrets.audit import check
from smallkube.secrets.transaction import changing_keys
from tests.integration.crash import assert_complete, generate, killed_at

DERIVED = {"peers.json", "recipients.json", "state.json"}


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it has written."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


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
    if not transaction.unfinished(cluster.workspace):
        assert fits(cluster)
        return
    fits(cluster)
    assert ("(all)", "inv keys.generate") in [
        (problem.file, problem.fix) for problem in check(cluster.cluster).problems
    ]
    with pytest.raises(UsageError, match="interrupted"):
        bundle.assemble(cluster.cluster)


def assert_rotated(cluster: Any) -> None:
    assert transaction.unfinished(cluster.workspace) == () and fits(cluster)
    assert {path.name for path in cluster.workspace.state_dir.iterdir()} == {".gitignore", "keys.lock"}
    (cluster.private / "master_key").rename(cluster.workspace.master_key)
    assert_complete(cluster)  # which takes the private key away again


def ready(make_cluster: Callable[..., Any], nodes: tuple[int, ...], name: str) -> Any:
    """Everything generated, the master's private key elsewhere."""
    cluster = make_cluster(nodes, name)
    generate(cluster)
    cluster.without_master()
    return cluster


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
        marked += bool(transaction.unfinished(cluster.workspace))
        assert_whole_or_marked(cluster)
        again(cluster)
        assert_rotated(cluster)
    assert step > 15 and marked > 10


def test_the_same_command_resumes_and_makes_no_second_key(make_cluster: Callable[..., Any]) -> None:
    cluster = ready(make_cluster, (1, 2), "ws")
    for step in count(1):
        assert killed_at(step, cluster.workspace.root, lambda: rotated(cluster))
        if transaction.unfinished(cluster.workspace):
            break
    before = cluster.content()
    run = cluster.inv("keys.rotate-wireguard")
    assert run.returncode == 0 and "completed an interrupted change" in run.stderr, run.stderr
    assert cluster.content() != before
    assert_rotated(cluster)
