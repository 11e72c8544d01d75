"""Proves that adding and removing a node changes nothing else in the file, comments and quotes included."""

import pytest

from smallkube.core.errors import UsageError
from smallkube.inventory.edit import add_node, remove_node

TEXT = """\
# our cluster
cluster:
  name: demo   # the name
  kubernetes: "1.34"
  addons: [a.yaml]
  network:
    open_to_pods:
      - 9100
nodes:
  node1: # the primary
    peer_ip: 192.168.0.1
  # the spare one
  node3:
    peer_ip: "192.168.0.3"
    checks:
      - [systemctl, is-active, sshd]
"""


def test_an_added_node_is_the_only_change() -> None:
    changed = add_node(TEXT, "node4", peer_ip="192.168.0.4")
    assert changed == TEXT + "  node4:\n    peer_ip: 192.168.0.4\n"


def test_an_ssh_host_is_written_when_it_differs() -> None:
    changed = add_node(TEXT, "node4", peer_ip="192.168.0.4", ssh_host="node4.example.com")
    assert changed.endswith("  node4:\n    peer_ip: 192.168.0.4\n    ssh: {host: node4.example.com}\n")


def test_removing_what_was_added_restores_the_file() -> None:
    assert remove_node(add_node(TEXT, "node4", peer_ip="192.168.0.4"), "node4") == TEXT


def test_what_cannot_be_edited_is_refused() -> None:
    with pytest.raises(UsageError, match="in the inventory already"):
        add_node(TEXT, "node3", peer_ip="192.168.0.9")
    with pytest.raises(UsageError, match="no node 'node9'"):
        remove_node(TEXT, "node9")
    with pytest.raises(UsageError, match="the primary"):
        remove_node(TEXT, "node1")
