"""Verifies what a deploy finds out before anything is sent: newer keys, other peers, unknown commits, missing parts."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.core.errors import UsageError
from smallkube.core.workspace import Workspace
from smallkube.deploy import preflight
from smallkube.deploy.facts import Deployed
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import parse
from smallkube.inventory.models import Inventory, Node
from smallkube.nix.bundle import Bundle
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.host import Command
from smallkube.remote.ssh import connector

SYSTEM = "/nix/store/aaa-nixos-system-node2"
ENTRY = {"time": "t", "operator": "o", "goal": "switch", "digest": "d", "system": SYSTEM, "generation": "1"}
SECRET = b"age-encryption.org/v1"


def entry(outcome: str = "deployed", **more: str) -> str:
    return json.dumps({**ENTRY, "outcome": outcome, "reason": "", **more})


def deployed(*history: str, **more: Any) -> Deployed:
    """A machine whose private key is the one of the workspace."""
    own = {"d": hashlib.sha256(SECRET).hexdigest()}
    facts = {"system": SYSTEM, "history": history, "peers": "", "public_key": "", "wireguard": own}
    facts |= {"rendered": (), "own_keys": ()}
    return Deployed(**{**facts, **more})


@pytest.fixture
def inventory(workspace: Workspace) -> Inventory:
    lines = "".join(f"  node{index}: {{peer_ip: 192.168.0.{index}}}\n" for index in (1, 2, 3, 10))
    return parse(f"cluster: {{name: x}}\nnodes:\n{lines}", workspace.inventory_file)


OUTCOMES = st.sampled_from(["deployed", "unchanged", "rolled back", "failed", "tested", "boots next", "unknown"])


@given(history=st.lists(st.tuples(OUTCOMES, st.sampled_from(["", "a", "b", "c"])), max_size=6), had=st.sets(
    st.sampled_from(["a", "b", "c"])
))  # fmt: skip
def test_a_workspace_with_older_keys_is_refused(history: list[tuple[str, str]], had: set[str]) -> None:
    """What counts is the newest deploy that took effect and names a change of keys/."""
    last = [keys for outcome, keys in history if outcome not in ("rolled back", "failed", "unknown") and keys][-1:]
    found = {"node1": deployed(), "node2": deployed(*(entry(outcome, keys=keys) for outcome, keys in history))}
    if {*last} <= had:
        preflight.refuse_older_keys(found, [*had])
    else:
        with pytest.raises(UsageError, match=r"^keys/: node2 has newer keys .*; run `git pull`"):
            preflight.refuse_older_keys(found, [*had])


def test_an_entry_of_the_previous_version_has_no_keys() -> None:
    preflight.refuse_older_keys({"node1": deployed(entry())}, [])


@pytest.mark.parametrize(
    ("machine", "refused"),
    [
        (deployed(entry(), public_key="K2"), False),
        (deployed(entry(), public_key="OTHER"), True),
        (deployed(entry(), public_key=""), False),
        (deployed(public_key="OTHER"), False),
        (deployed(entry(), public_key="OTHER", wireguard={"d": "another key"}), False),
        (deployed(entry(), public_key="OTHER", wireguard={}), False),
        (deployed(entry(), public_key="OTHER", system="/nix/store/another"), False),
    ],
)
def test_a_public_key_of_another_private_key_is_refused(inventory: Inventory, machine: Deployed, refused: bool) -> None:
    peers = [{"PublicKey": "K1"}, {"PublicKey": "K2"}]
    whole = Bundle({"keys/peers.json": json.dumps(peers).encode(), "keys/wgkube2.key.age": SECRET})
    nodes = inventory.nodes[:2]
    if refused:
        with pytest.raises(UsageError, match=r"^keys/peers\.json: the PublicKey of node2 is not that of its private"):
            preflight.refuse_other_public_keys(nodes, {"node2": machine}, whole)
    else:
        preflight.refuse_other_public_keys(nodes, {"node2": machine}, whole)


@pytest.mark.parametrize(
    ("digests", "selected", "stale"),
    [
        ({"node1": "", "node2": "new", "node3": "old", "node10": ""}, [2], (False, ())),
        ({"node1": "", "node2": "new", "node3": "old", "node10": ""}, [1], (False, ("node3",))),
        ({"node1": "old", "node2": "new", "node3": "old", "node10": ""}, [1, 2], (True, ("node3",))),
    ],
)
def test_nodes_with_older_peers_are_found(
    workspace: Workspace,
    inventory: Inventory,
    monkeypatch: pytest.MonkeyPatch,
    digests: Mapping[str, str],
    selected: list[int],
    stale: tuple[bool, tuple[str, ...]],
) -> None:
    wanted = hashlib.sha256(b"peers").hexdigest()

    def connect(_: Workspace, node: Node) -> FakeHost:
        facts = {"system": SYSTEM, "history": [], "public_key": "", "wireguard": {}}
        facts |= {"rendered": [], "own_keys": []}
        facts["peers"] = digests[node.name].replace("new", wanted)
        return FakeHost(node, lambda _: reply(json.dumps(facts)))

    monkeypatch.setattr("smallkube.remote.ssh.SshHost", connect)
    cluster, nodes = Cluster(workspace, inventory), [inventory.nodes[index - 1] for index in selected]
    ask = connector(workspace)
    new, others = preflight.stale_peers(cluster, nodes, preflight.ask(nodes, ask), b"peers", ask)
    assert (new, tuple(others)) == stale


def test_a_machine_that_answers_anything_else_is_left_out(
    workspace: Workspace, inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(command: Command) -> Any:
        assert command.argv[4] == "deployed"
        return reply('{"system": 1}')

    monkeypatch.setattr("smallkube.remote.ssh.SshHost", lambda _, node: FakeHost(node, answer))
    assert preflight.ask(inventory.nodes, connector(workspace)) == {}


def test_a_commit_that_this_clone_lacks_is_reported(workspace: Workspace) -> None:
    def warned(commit: str) -> list[str]:
        return [*preflight.unknown_commits(workspace, {"node2": deployed(entry(commit=commit)), "node1": deployed()})]

    assert (preflight.commit(workspace), warned("a" * 40)) == ("", [])
    own = ["-c", "user.name=x", "-c", "user.email=x@x"]
    for words in (["init", "-q"], ["add", "-A"], [*own, "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(workspace.root), *words], check=True)
    assert len(commit := preflight.commit(workspace)) == 40
    assert [warned(text) for text in (commit, "", "--help", "HEAD~9")] == [[]] * 4
    assert warned("a" * 40) == ["node2 was deployed from commit aaaaaaaaaaaa, which this clone does not have: git pull"]


COMPLETE = 'fileSystems."/" = { }; boot.loader.grub.enable = true; users.users.x.openssh.authorizedKeys.keys = [ ];'


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({"node2.nix": COMPLETE}, ""),
        ({"node2.nix": f"# {COMPLETE}"}, "no file system, no boot loader, no authorized SSH key"),
        ({"node2.nix": f"/* {COMPLETE}\n*/"}, "no file system, no boot loader, no authorized SSH key"),
        ({"node2.nix": "", "node2-hardware.nix": COMPLETE}, ""),
        ({"node2.nix": "", "common.nix": COMPLETE}, ""),
        ({"node2.nix": "", "node1.nix": COMPLETE}, "no file system, no boot loader, no authorized SSH key"),
        ({"node2.nix": "boot.loader.x = 1; authorizedKeys"}, "no file system"),
        ({"node2.nix": "boot.isContainer = true;"}, ""),
    ],
)
def test_what_a_machine_needs_to_be_reached_is_missed(
    inventory: Inventory, files: Mapping[str, str], missing: str
) -> None:
    whole = Bundle({f"nix/hosts/{name}": text.encode() for name, text in files.items()})
    expected = [f"nix/hosts: {missing} for node2; copy what the machine has in /etc/nixos"] if missing else []
    assert [*preflight.host_warnings([inventory.node("node2")], whole)] == expected


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n", True),
        ('kind: List\nitems: [{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}]\n', True),
        ("kind: List\nitems:\n- kind: 'NetworkPolicy'\n", True),
        ("# kind: NetworkPolicy\nkind: NetworkPolicyList2\n", False),
        ("kind: ConfigMap\ndata: {a: NetworkPolicy}\n", False),
        ("", False),
    ],
)
def test_a_policy_that_nothing_enforces_is_warned_of(text: str, warned: bool) -> None:
    found = [*preflight.addon_warnings(["a/x.yaml", "a-name"], Bundle({"a/x.yaml": text.encode()}))]
    assert len(found) == warned
    assert not warned or found[0].startswith("a/x.yaml: a NetworkPolicy has no effect")


def test_a_policy_that_the_catalogue_enforces_is_not_warned_of() -> None:
    whole = Bundle({"a/x.yaml": b"kind: NetworkPolicy\n"})
    assert not [*preflight.addon_warnings(["a/x.yaml", "network-policy"], whole)]
