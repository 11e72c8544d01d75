"""The key of monitoring in a cluster that has been in use: made, verified, rotated, and named when it is not needed."""

import json
import os
from typing import Any

import pytest

from smallkube.operations.certificates import Rotation, under_way
from smallkube.secrets import policy
from tests import forked
from tests.unit.fake_cluster import FakeCluster, run

OWN = {"monitoring.key.age", "monitoring.crt"}


def inv_json(cluster: FakeCluster, *words: str) -> Any:
    environment = {**os.environ, "SMALLKUBE_WORKSPACE": str(cluster.workspace.root)}
    return json.loads(forked.inv(*words, "--json", environment=environment).stdout)


def choose(cluster: FakeCluster, *, monitoring: bool) -> None:
    file = cluster.workspace.inventory_file
    text = file.read_text().replace("  monitoring: true\n", "")
    file.write_text(text.replace("cluster:\n", "cluster:\n  monitoring: true\n", 1) if monitoring else text)
    cluster.__dict__.pop("inventory", None)


@pytest.fixture
def monitored(cluster: FakeCluster) -> FakeCluster:
    """A cluster that was generated without it, and has it now."""
    choose(cluster, monitoring=True)
    assert set(inv_json(cluster, "keys.generate")["created"]) == OWN
    return cluster


def test_keys_are_sound_and_the_primary_reads_it(monitored: FakeCluster) -> None:
    assert inv_json(monitored, "keys.check")["problems"] == []
    (row,) = [row for row in inv_json(monitored, "keys.list") if row["name"] == "monitoring.key"]
    assert (row["readers"], row["user"]) == (["master", "node1"], "system:metrics-scraper")
    assert row["access"] == {"mode": "0440", "owner": "root", "group": "prometheus"}


def test_it_is_rendered_for_the_primary_alone(monitored: FakeCluster) -> None:
    environment = {**os.environ, "SMALLKUBE_WORKSPACE": str(monitored.workspace.root)}
    assert forked.inv("nix.render", environment=environment).returncode == 0
    texts = {path.name: path.read_text() for path in monitored.workspace.rendered_dir.glob("*.nix")}
    assert "    monitoring = true;\n" in texts["cluster.nix"]
    assert '"monitoring.key" = {\n      mode = "0440";\n      group = "prometheus";' in texts["node1.nix"]
    assert 'user = "system:metrics-scraper";' in texts["node1.nix"]
    assert "monitoring" not in texts["node2.nix"]


def test_its_certificate_is_rotated(monitored: FakeCluster) -> None:
    monitored.deploy_certificates()
    rows = tuple(row for row in policy.secrets_of(monitored.inventory) if row.name == "monitoring.key")
    before = monitored.keys.certificates
    rotation = Rotation(monitored.cluster, None, monitored.connect, monitored.deploy_certificates, rows, 0)
    assert run(rotation.operation(monitored.keys, abort=False, pause=False), monitored.keys)
    after = monitored.keys.certificates
    assert {name for name in after if after[name] != before[name]} == {"monitoring.crt"}
    assert under_way(monitored.inventory, monitored.keys) == ()


def test_what_is_left_of_it_is_named(monitored: FakeCluster) -> None:
    choose(monitored, monitoring=False)
    assert {row["file"] for row in inv_json(monitored, "keys.check")["problems"]} == {*OWN, "secrets.nix"}
    for name in OWN:
        (monitored.workspace.keys_dir / name).unlink()
    assert inv_json(monitored, "keys.generate")["created"] == []
    assert inv_json(monitored, "keys.check")["problems"] == []
