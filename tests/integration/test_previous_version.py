"""A workspace that the previous version made works unchanged."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import previous
from tests.integration.conftest import PreparedWorkspace
from tests.integration.etcd import like_kubernetes
from tests.integration.test_etcd_backup import Site, server
from tests.previous import Previous


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Previous:
    return previous.extracted(tmp_path_factory.mktemp("previous"))


@pytest.fixture
def made(old: Previous, make_cluster: Callable[..., PreparedWorkspace]) -> PreparedWorkspace:
    """Everything generated and rendered by the previous version."""
    cluster = make_cluster((1, 2))
    for words in (("keys.generate",), ("nix.render",)):
        old.done(cluster.workspace.root, *words)
    return cluster


NEW = {
    "front-proxy-client.key.age",
    "front-proxy-client.crt",
    *(
        f"{user}_{node}.{end}"
        for user in ("node", "coredns", "kube-proxy")
        for node in ("node1", "node2")
        for end in ("key.age", "crt")
    ),
}
"""What it did not have yet."""


def test_what_its_keys_lack_is_named_and_generated(made: PreparedWorkspace) -> None:
    before = made.content()
    assert set(made.problems()) == {*NEW, "secrets.nix"}
    made.done("nix.render")
    for words in (("deploy", "--dry-run"), ("keys.rotate-certificates", "--all", "--yes")):
        line = made.refused(*words)
        assert "front-proxy-client." in line and "run `inv keys.generate`" in line
    made.done("keys.generate")
    made.done("keys.rekey")
    after = made.content()
    assert set(after) - set(before) == {*NEW, "state.json"}
    assert {name for name in before if after[name] != before[name]} <= {"recipients.json", "secrets.nix"}
    assert made.problems() == {}


def test_its_secrets_can_be_rotated(made: PreparedWorkspace) -> None:
    made.done("keys.generate")
    made.done("keys.rotate-wireguard", "--yes")
    made.done("keys.rotate-certificates", "--all", "--no-deploy", "--yes")
    made.done("keys.rotate-master", "--yes")
    made.done("keys.rotate-master", "--drop-old", "--yes")
    assert made.problems() == {}


def test_its_rotation_of_the_master_key_is_ended(old: Previous, made: PreparedWorkspace) -> None:
    old.done(made.workspace.root, "keys.rotate-master", "--yes")
    made.done("keys.rotate-master", "--drop-old", "--yes")
    made.done("keys.generate")
    assert made.problems() == {}


def test_its_backups_are_listed_verified_and_rehearsed(
    old: Previous, made: PreparedWorkspace, tmp_path: Path, needs: Callable[[str, object, str], None]
) -> None:
    with server(tmp_path / "e", "3.6", needs).running() as etcd:
        etcd.put({key: value for key, value in like_kubernetes().items() if "/secrets/" not in key})
        site = Site(made, etcd, tmp_path / "scratch")
        old.done(made.workspace.root, *site.words, PATH=etcd.path)
        site.taken()
        names = [row["name"] for row in json.loads(made.done("etcd.list", "--json"))["backups"]]
        assert len(names) == 2
        assert [row["result"] for row in json.loads(made.done("etcd.verify", "--json"))] == ["warning", "ok"]
        made.done("etcd.drill", "--name", names[0], PATH=etcd.path)
