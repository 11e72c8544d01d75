"""Rows that are added to the policy, to see that everything else follows: a token and a certificate for each node."""

from typing import TYPE_CHECKING

import pytest

from smallkube.secrets import policy
from smallkube.secrets.policy import Access, Certificate, Client, Kind, Secret, User

if TYPE_CHECKING:
    from smallkube.inventory.models import Inventory, Node


def rows_of(inventory: "Inventory", node: "Node") -> tuple[Secret, Secret]:
    name, host = node.name, inventory.addressing.node_host(node.index)
    user = User(f"agent:{name}", f"agent-{name}", ("agents", "readers"), (Client("agent", "%d/token"),))
    readers = tuple(dict.fromkeys((inventory.primary.name, name)))
    access = Access("0440", group="systemd-network")
    shown_at = f"https://{host}:9443/metrics"
    certificate = Certificate(f"agent_{name}.crt", f"agent-{name}", "serverAuth", (host,), (), shown_at)
    return (
        Secret(f"kube_token_agent_{name}", Kind.TOKEN, name, readers, None, ("agent",), user, access),
        Secret(f"agent_{name}.key", Kind.SERVING_KEY, name, (name,), certificate, ("agent",)),
    )


def add_to_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    table = policy.secrets_of

    def extended(inventory: "Inventory") -> tuple[Secret, ...]:
        return (*table(inventory), *(row for node in inventory.nodes for row in rows_of(inventory, node)))

    monkeypatch.setattr(policy, "secrets_of", extended)
