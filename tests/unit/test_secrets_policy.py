"""Who may read which secret: the whole table for inventories with and without each option, and names on the nodes."""

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from smallkube.core.workspace import REPOSITORY
from smallkube.inventory.load import load, parse
from smallkube.inventory.models import Inventory
from smallkube.secrets import certificates, policy
from smallkube.secrets.policy import Kind


def inventory(tmp_path: Path, indices: tuple[int, ...] = (1, 2, 4), **cluster: Any) -> Inventory:
    nodes = {f"node{index}": {"peer_ip": f"192.168.0.{index}"} for index in indices}
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "inventory.yaml"
    path.write_text(yaml.safe_dump({"cluster": {"name": "test", **cluster}, "nodes": nodes}))
    return load(path)


def readers(given: Inventory) -> dict[str, set[str]]:
    return {row.file: set(row.readers) for row in policy.secrets_of(given)}


def files_on(given: Inventory, node: str, existing: Collection[str]) -> dict[str, str]:
    return {name: row.file for name, row in policy.secrets_by_node(given, existing)[node].items()}


SHARED = {
    "kube_token_root.age": {"node1"},
    "kube_token_system_kube-controller-manager.age": {"node1"},
    "kube_token_system_kube-scheduler.age": {"node1"},
    "EncryptionConfiguration.yaml.age": {"node1"},
    "apiserver.key.age": {"node1"},
    "issuer.key.age": {"node1"},
    "front-proxy-client.key.age": {"node1"},
    "kubelet-client.key.age": {"node1"},
}


def test_default_table(tmp_path: Path) -> None:
    assert readers(inventory(tmp_path)) == SHARED | {
        "wgkube1.key.age": {"node1"},
        "wgkube2.key.age": {"node2"},
        "wgkube4.key.age": {"node4"},
        **{
            f"{word}_node{index}.key.age": {f"node{index}"}
            for index in (1, 2, 4)
            for word in ("kubelet", "node", "coredns", "kube-proxy")
        },
    }


def test_each_program_of_a_node_has_an_identity_of_its_own(tmp_path: Path) -> None:
    rows = [row for row in policy.identities(inventory(tmp_path)) if row.node == "node4"]
    found = {row.units: row.certificate for row in rows if row.certificate}
    assert {units: (each.common_name, each.groups, each.usage) for units, each in found.items()} == {
        ("kubelet",): ("system:node:node4.k8s.internal", ("system:nodes",), "clientAuth"),
        ("coredns",): ("system:coredns:node4.k8s.internal", ("system:coredns",), "clientAuth"),
        ("kube-proxy",): ("system:kube-proxy:node4.k8s.internal", ("system:node-proxiers",), "clientAuth"),
    }
    assert {row.readers for row in rows} == {("node4",)}


def test_the_longest_domain_fits_into_each_certificate(tmp_path: Path) -> None:
    given = inventory(tmp_path, (1, 254), domain="d" * 38)
    names = [each.common_name for each in policy.certificates(given)]
    assert max(map(len, names)) == 64
    key = certificates.new_key()
    for each in policy.certificates(given):
        assert certificates.issue(each, key, datetime.now(UTC))


def test_tokens_of_nodes_are_known_while_their_files_exist(tmp_path: Path) -> None:
    given = inventory(tmp_path)
    rows = {row.name: row.readers for row in policy.expected(given, {"kube_token_node2.age"})}
    assert {name: readers for name, readers in rows.items() if name.startswith("kube_token_node")} == {
        "kube_token_node2": ("node1", "node2")
    }
    assert not {"node2", "kubelet-node2"} & policy.tokens(given).keys()


@pytest.mark.parametrize(
    ("cluster", "absent"),
    [
        ({"api": {"tls": "insecure"}}, "apiserver.key.age"),
        ({"kubelet_auth": "firewall"}, "kubelet-client.key.age"),
    ],
)
def test_options_that_need_fewer_secrets(tmp_path: Path, cluster: dict[str, Any], absent: str) -> None:
    found = readers(inventory(tmp_path, **cluster))
    assert set(readers(inventory(tmp_path))) - set(found) == {absent}


def test_monitoring_has_an_identity_on_the_primary_alone(tmp_path: Path) -> None:
    given = inventory(tmp_path, monitoring=True)
    (name,) = set(readers(given)) - set(readers(inventory(tmp_path / "default")))
    row = next(row for row in policy.identities(given) if row.file == name)
    assert (row.name, row.readers, str(row.access)) == ("monitoring.key", ("node1",), "440 root prometheus")
    assert row.certificate and row.certificate.usage == "clientAuth" and row.certificate.groups == ()
    assert row.user and row.user.name == row.certificate.common_name == "system:metrics-scraper"


def test_names_on_a_node(tmp_path: Path) -> None:
    given = inventory(tmp_path)
    assert files_on(given, "node2", ()) == {
        "wgkube.key": "wgkube2.key.age",
        **{f"{word}_node2.key": f"{word}_node2.key.age" for word in ("kubelet", "node", "coredns", "kube-proxy")},
    }


def test_old_files_of_a_rotation_go_to_the_same_readers(tmp_path: Path) -> None:
    given = inventory(tmp_path)
    existing = {"kube_token_node2.old.age", "wgkube2.key.old.age", "kube_token_node9.old.age", "x.age.orig"}
    on_node2 = files_on(given, "node2", existing)
    assert on_node2["kube_token_node2.old"] == "kube_token_node2.old.age"
    assert on_node2["wgkube.key.old"] == "wgkube2.key.old.age"
    assert "kube_token_node2.old" in files_on(given, "node1", existing)
    assert "kube_token_node2.old" not in files_on(given, "node4", existing)
    assert not {name for name in on_node2 if "node9" in name or "orig" in name}


def test_certificates_name_what_clients_ask_for(tmp_path: Path) -> None:
    given = inventory(tmp_path)
    rows = {row.certificate.file: row.certificate for row in policy.secrets_of(given) if row.certificate}
    assert set(rows) == set(policy.public_files(given))
    api = rows["apiserver.crt"]
    assert set(api.names) == {
        "test-kube.example.com",
        "api.k8s.internal",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.k8s.internal",
    }
    assert set(api.addresses) == {"10.88.0.1", "fd88:1::1", "10.88.1.1"}
    assert rows["kubelet_node4.crt"].names == ("node4.k8s.internal",)
    assert rows["kubelet_node4.crt"].addresses == ("fd88:4::1", "10.88.4.1")
    for file, name in (
        ("kubelet-client.crt", "kube-apiserver-kubelet-client"),
        ("front-proxy-client.crt", "front-proxy-client"),
    ):
        assert (rows[file].usage, rows[file].common_name, rows[file].names) == ("clientAuth", name, ())


def test_every_secret_has_its_own_node_among_the_readers(tmp_path: Path) -> None:
    rows = policy.secrets_of(inventory(tmp_path, tuple(range(1, 255))))
    assert all(row.node in row.readers and len(row.readers) <= 2 for row in rows)
    assert len({row.file for row in rows}) == len(rows)
    assert sum(row.kind is Kind.WIREGUARD for row in rows) == 254


def table() -> list[str]:
    """The table in docs/security.md: the primary's secrets, then those of a node N."""
    text = "cluster: {name: test%s}\nnodes: {node1: {peer_ip: 192.0.2.1}, node2: {peer_ip: 192.0.2.2}}\n"
    on = ", monitoring: true"
    options = {
        "api.tls: pinned": f"{on}, api: {{tls: insecure}}",
        "kubelet_auth: webhook": f"{on}, kubelet_auth: firewall",
    }
    options |= {"monitoring: true": ""}
    without = {
        option: {row.name for row in policy.secrets_of(parse(text % other, Path("inventory.yaml")))}
        for option, other in options.items()
    }
    found = [
        "| secret | nodes | mode, owner, group | used by | API user (groups) | rotated by |",
        "|---|---|---|---|---|---|",
    ]
    for row in policy.secrets_of(parse(text % on, Path("inventory.yaml"))):
        if row.node == "node1" and ("node1" in row.name or row.kind is Kind.WIREGUARD):
            continue
        name = f"`{row.name}`" + "".join(f" (`{option}`)" for option, names in without.items() if row.name not in names)
        user = f"`{row.user.name}`" + f" ({', '.join(row.user.groups)})" * bool(row.user.groups) if row.user else ""
        nodes = ", ".join(row.readers).replace("node", "node ")
        cells = (name, nodes, str(row.access), ", ".join(row.units), user, f"`{row.kind.rotated_by}`")
        line = f"| {' | '.join(cells)} |".replace("node2", "nodeN").replace("node 2", "node N")
        found.append(line.replace("wgkube2", "wgkubeN").replace("|  |", "| |"))
    return found


def test_the_documented_table_is_the_policy() -> None:
    text = (REPOSITORY / "docs/security.md").read_text()
    section = text.partition("## Who can read what")[2].partition("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("|")] == table()
