"""peers.json: order, holes, unknown keys, differences in words; damage is one clear error."""

import base64
import json
from pathlib import Path

import pytest
import yaml

from smallkube.core.errors import UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory.load import load
from smallkube.inventory.models import Inventory
from smallkube.secrets import peers


def key(number: int) -> str:
    return base64.b64encode(bytes([number] * 32)).decode()


def inventory(folder: Path, *indices: int) -> Inventory:
    nodes = {f"node{index}": {"peer_ip": f"192.168.0.{index}"} for index in indices}
    (folder / "inventory.yaml").write_text(yaml.safe_dump({"cluster": {"name": "t"}, "nodes": nodes}))
    return load(folder / "inventory.yaml")


def test_holes_are_null_and_the_order_is_that_of_the_indices(tmp_path: Path) -> None:
    change = peers.updated([], inventory(tmp_path, 1, 3), {3: key(3), 1: key(1)})
    assert json.loads(change.files["peers.json"]) == [
        {"PublicKey": key(1), "PeerIP": "192.168.0.1"},
        None,
        {"PublicKey": key(3), "PeerIP": "192.168.0.3"},
    ]


def test_nothing_to_say_when_it_fits(tmp_path: Path) -> None:
    given = inventory(tmp_path, 1, 3)
    change = peers.updated([], given, {3: key(3), 1: key(1)})
    assert peers.updated(change.peers, given, {}).words == ()


def test_keys_of_other_tools_are_kept_and_differences_reported(tmp_path: Path) -> None:
    before: peers.Peers = [{"Region": "eu", "PeerIP": "10.0.0.1", "PublicKey": key(1)}]
    change = peers.updated(before, inventory(tmp_path, 1), {})
    assert change.peers == [{"Region": "eu", "PeerIP": "192.168.0.1", "PublicKey": key(1)}]
    assert change.words == ("PeerIP of node1 was 10.0.0.1, is 192.168.0.1 in the inventory",)


def test_an_entry_without_key_that_another_tool_made_gets_one(tmp_path: Path) -> None:
    change = peers.updated([{"PeerIP": "192.168.0.1", "Region": "eu"}], inventory(tmp_path, 1), {1: key(1)})
    assert change.peers == [{"PublicKey": key(1), "PeerIP": "192.168.0.1", "Region": "eu"}]


def test_removed_nodes_leave_a_hole_or_the_list_gets_shorter(tmp_path: Path) -> None:
    entries = peers.updated([], inventory(tmp_path, 1, 2, 3), {n: key(n) for n in (1, 2, 3)}).peers
    middle = peers.updated(entries, inventory(tmp_path, 1, 3), {})
    assert middle.peers[1] is None and middle.words == ("node2 removed",)
    end = peers.updated(entries, inventory(tmp_path, 1, 2), {})
    assert len(end.peers) == 2 and end.words == ("node3 removed",)


def test_a_node_without_keys_yet_is_left_out(tmp_path: Path) -> None:
    change = peers.updated([], inventory(tmp_path, 1, 2), {1: key(1)})
    assert change.peers == [{"PublicKey": key(1), "PeerIP": "192.168.0.1"}, None]


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[1]", '["x"]', "[", '[{"PublicKey": 3}]', '[{"PublicKey": "AAAA"}]', "[" * 100_000],
)
def test_damage_is_one_clear_error(tmp_path: Path, text: str) -> None:
    workspace = Workspace(tmp_path)
    workspace.keys_dir.mkdir()
    workspace.peers_file.write_text(text)
    with pytest.raises(UsageError) as caught:
        peers.read(workspace)
    assert str(caught.value).startswith("keys/peers.json: ")
