"""Proves whose tokens there are, and who uses another."""

from pathlib import Path

import pytest

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.load import parse
from smallkube.inventory.models import Inventory
from smallkube.kube import token_clients
from smallkube.kube.token_clients import TokenClient
from smallkube.operations import tokens
from smallkube.secrets import policy

TEXT = "cluster: {name: test}\nnodes: {node1: {peer_ip: 192.0.2.1}, node2: {peer_ip: 192.0.2.2}}\n"


def inventory() -> Inventory:
    return parse(TEXT, Path("inventory.yaml"))


EVERYBODY = policy.tokens(inventory())


def test_everybody_has_the_name_that_the_api_server_knows() -> None:
    assert {short: row.user.name for short, row in EVERYBODY.items() if row.user} == {
        "root": "root",
        "kube-controller-manager": "system:kube-controller-manager",
        "kube-scheduler": "system:kube-scheduler",
    }


def test_users_are_chosen_by_either_name_and_once() -> None:
    chosen = tokens.select(EVERYBODY, ["kube-scheduler", "system:kube-scheduler", "root"])
    assert [*chosen] == ["kube-scheduler", "root"]


@pytest.mark.parametrize(("names", "said"), [([], "no user selected"), (["node3"], "no user 'node3'")])
def test_a_choice_that_can_not_be_met_is_a_usage_error(names: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        tokens.select(EVERYBODY, names)


def test_clients_with_another_token_are_behind() -> None:
    users = {client.name: user for client, user in token_clients.clients_on(inventory(), inventory().primary).items()}
    found = token_clients.parse("node1", users, "kube-controller-manager aa\nkube-scheduler -\nroot ee")
    assert found[0] == TokenClient("node1", "kube-controller-manager", "kube-controller-manager", "aa")
    assert token_clients.outdated(found, {"kube-scheduler": "aa", "root": "ff"}) == [
        "kube-scheduler on node1",
        "root on node1",
    ]


@pytest.mark.parametrize("text", ["kubelet", "kubelet a b", "other a"])
def test_an_answer_that_makes_no_sense_is_an_error(text: str) -> None:
    with pytest.raises(SmallkubeError, match="unexpected output"):
        token_clients.parse("node1", {"kubelet": "node1"}, text)
