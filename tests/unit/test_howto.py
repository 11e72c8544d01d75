"""The examples of docs/howto.md: YAML is an inventory or objects, and what they claim to be tested exists."""

import re
from pathlib import Path

import pytest
import yaml

from smallkube.core.workspace import REPOSITORY
from smallkube.inventory.load import parse

TEXT = (REPOSITORY / "docs/howto.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
INVENTORIES = [block for block in BLOCKS if block.startswith("cluster:")]
OBJECTS = [block for block in BLOCKS if block not in INVENTORIES]


@pytest.mark.parametrize("block", INVENTORIES)
def test_a_part_of_an_inventory_is_valid(block: str, tmp_path: Path) -> None:
    nodes = "nodes: {node1: {peer_ip: 192.168.0.1}, node2: {peer_ip: 192.168.0.2}}\n"
    found = parse(f"{block}  name: home\n{nodes}", tmp_path / "inventory.yaml")
    assert (
        found.cluster.network != parse(f"cluster: {{name: home}}\n{nodes}", tmp_path / "inventory.yaml").cluster.network
    )


@pytest.mark.parametrize("block", OBJECTS)
def test_objects_fit_each_other(block: str) -> None:
    first, second = yaml.safe_load_all(block)
    assert {first["kind"], second["kind"]} in (
        {"PersistentVolume", "PersistentVolumeClaim"},
        {"Service", "EndpointSlice"},
    )
    if first["kind"] == "Service":
        assert second["metadata"]["labels"]["kubernetes.io/service-name"] == first["metadata"]["name"]
        assert [port["port"] for port in first["spec"]["ports"]] == [port["port"] for port in second["ports"]]
    else:
        assert second["spec"]["volumeName"] == first["metadata"]["name"]
        assert second["spec"]["storageClassName"] == first["spec"]["storageClassName"] == ""


def test_the_files_that_are_named_exist() -> None:
    named = re.findall(r"`((?:tests|nix/modules|keys)/[\w./-]+\.(?:py|nix))`", TEXT)
    assert named and all((REPOSITORY / name).exists() for name in named)
