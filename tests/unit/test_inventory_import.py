"""Nodes from OpenTofu, Terraform and peers.json: what is new is added, what differs changed, all else kept."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from smallkube.cli.program import main
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory import imports
from smallkube.inventory.load import parse

TEXT = """\
# ours
cluster: {name: test} # kept
nodes:
  node1: # the primary
    peer_ip: 192.168.0.1 # by hand
  node2:
    peer_ip: 192.168.0.2
    ssh: {host: two.example.com}
"""
OBJECT = {"peer_ip": "10.0.0.3", "ssh": {"host": "three", "port": 2222, "user": "admin", "become": "sudo"}}


def tofu(value: Any, name: str = "nodes") -> dict[str, Any]:
    other = {"sensitive": True, "type": "string", "value": "x"}
    return {"token": other, name: {"sensitive": False, "type": ["map", "string"], "value": value}}


@pytest.mark.parametrize(
    "document",
    [
        tofu({"node1": "10.0.0.1", "node3": OBJECT}),
        {"node3": OBJECT, "node1": {"peer_ip": "10.0.0.1", "ssh": None}},
        tofu([{"peer_ip": "10.0.0.1", "ssh": {"port": None}}, None, OBJECT]),
        ["10.0.0.1", None, OBJECT],
    ],
)
def test_every_form_gives_the_same_nodes(document: Any) -> None:
    found = imports.nodes(document, "nodes", "file")
    assert [*found] == ["node1", "node3"]
    assert found["node1"] == {("peer_ip",): "10.0.0.1"}
    assert found["node3"]["ssh", "port"] == 2222 and len(found["node3"]) == 5


def test_a_peers_file_gives_addresses_alone() -> None:
    peers = [{"PublicKey": "x", "PeerIP": "10.0.0.1", "more": 1}, None, {"PublicKey": "y", "PeerIP": "10.0.0.3"}]
    found = imports.nodes(peers, "nodes", "file")
    assert found == {"node1": {("peer_ip",): "10.0.0.1"}, "node3": {("peer_ip",): "10.0.0.3"}}


def test_what_differs_is_changed_and_all_else_is_kept() -> None:
    ssh = {"host": "two.example.com", "port": 2222}
    found = imports.nodes({"node1": "10.0.0.1", "node2": {"peer_ip": "192.168.0.2", "ssh": ssh}}, "nodes", "file")
    changed = TEXT.replace("192.168.0.1 #", "10.0.0.1 #").replace("two.example.com}", "two.example.com, port: 2222}")
    assert imports.merged(TEXT, found) == changed
    assert imports.merged(changed, found) == changed


def test_ssh_is_added_where_there_was_none() -> None:
    found = imports.nodes({"node1": OBJECT, "node3": {**OBJECT, "peer_ip": "10.0.0.4"}}, "nodes", "file")
    found["node1"]["ssh", "host"] = "one"
    first, second, third = parse(imports.merged(TEXT, found), Path("inventory.yaml")).nodes
    assert (first.peer_ip, first.ssh.host, first.ssh.port, first.ssh.become) == ("10.0.0.3", "one", 2222, "sudo")
    assert second.ssh.host == "two.example.com"
    assert (third.peer_ip, third.ssh.user, third.ssh.port) == ("10.0.0.4", "admin", 2222)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (tofu({}, "machines"), "file: has no output 'nodes'; name one by --output: token, machines"),
        (tofu({}), "file: has no nodes"),
        ([], "file: has no nodes"),
        ("10.0.0.1", "file: has no nodes"),
        ({"web": "10.0.0.1"}, "file: 'web' is not nodeN"),
        ({"node1": 7}, "node1: is no address and no object"),
        ({"node1": {"id": "i-1"}}, "node1: unknown key id; the keys are peer_ip, ssh.host"),
        ({"node1": {"peer_ip": "10.0.0.1", "ssh": {"key": "x"}}}, "node1: unknown key ssh.key"),
        ({"node1": {"peer_ip": "10.0.0.1", "ssh": {"port": "22"}}}, "node1: ssh.port is not a whole number"),
        ({"node1": {"peer_ip": "10.0.0.1", "ssh": {"port": True}}}, "node1: ssh.port is not a whole number"),
        ({"node1": {"peer_ip": ["10.0.0.1"]}}, "node1: peer_ip is not text"),
        ({"node1": {"ssh": {"host": "x"}}}, "node1: peer_ip is missing"),
    ],
)
def test_another_shape_is_one_line(document: Any, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        imports.nodes(document, "nodes", "file")
    assert message in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b"nodes:"])
def test_what_is_not_json_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UsageError, match="not JSON; write it by `tofu output -json`"):
        imports.read(tmp_path / "file", "nodes")


def inv(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(workspace.root))
    monkeypatch.setattr(sys, "argv", ["smallkube", *words])
    try:
        main(["smallkube", *words])
    except SystemExit as end:
        return int(str(end.code or 0))
    return 0


def test_the_task_shows_a_diff_and_asks(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = workspace.root / "outputs.json"
    file.write_text(json.dumps(tofu({"node1": "192.168.0.1", "node7": "10.0.0.7"}, "machines")))
    before = workspace.inventory_file.read_text()
    words = ("inventory.import", str(file), "--output", "machines")
    assert inv(workspace, monkeypatch, *words) == 2
    output, errors = capsys.readouterr()
    assert "+  node7:\n+    peer_ip: 10.0.0.7" in output
    assert "only in inventory.yaml: node2" in errors and "pass --yes" in errors
    assert workspace.inventory_file.read_text() == before
    assert inv(workspace, monkeypatch, *words, "--yes") == 0
    assert workspace.inventory_file.read_text() == f"{before}  node7:\n    peer_ip: 10.0.0.7\n"
    assert "inv keys.scan --node node7, inv keys.generate" in capsys.readouterr().err
    assert inv(workspace, monkeypatch, *words, "--yes") == 0
    assert "nothing to do" in capsys.readouterr().err


def test_an_address_that_is_wrong_changes_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = workspace.inventory_file.read_text()
    (workspace.root / "peers.json").write_text('["127.0.0.1", "192.168.0.2"]')
    assert inv(workspace, monkeypatch, "inventory.import", str(workspace.root / "peers.json"), "--yes") == 2
    assert workspace.inventory_file.read_text() == before


def test_nodes_add_takes_the_login(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inv(workspace, monkeypatch, "nodes.add", "node3") == 2
    assert capsys.readouterr().err.startswith("no --peer-ip given; give the address where the other nodes reach node3")
    words = ("--peer-ip", "10.0.0.3", "--user", "admin", "--port", "2222", "--become", "sudo")
    assert inv(workspace, monkeypatch, "nodes.add", "node3", *words) == 0
    node = parse(workspace.inventory_file.read_text(), workspace.inventory_file).node("node3")
    assert (node.ssh.host, node.ssh.user, node.ssh.port, node.ssh.become) == ("10.0.0.3", "admin", 2222, "sudo")
    with pytest.raises(SmallkubeError):
        parse(workspace.inventory_file.read_text().replace("sudo", "doas"), workspace.inventory_file)
