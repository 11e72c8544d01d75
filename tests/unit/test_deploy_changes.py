"""A value that a live cluster can't take is refused before anything is sent, whatever a machine says of its past."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from smallkube.core.errors import ErrorGroup
from smallkube.deploy import preflight
from smallkube.deploy.facts import Deployed
from smallkube.deploy.history import Entry
from smallkube.inventory.changes import KINDS, Kind
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import ClusterSettings, Inventory, Node
from smallkube.nix import render
from tests.unit.fake_cluster import FakeCluster

DIGEST = "a" * 64
OTHER: dict[str, Any] = {
    "cluster.domain": "other.internal",
    "cluster.network.prefix4": "10.99",
    "cluster.network.prefix6": "fd99",
    "cluster.api.external_host": "other.example.com",
    "cluster.api.port": 7443,
    "cluster.kubernetes": "1.35",
    "cluster.nixos": "26.05",
}


def fields(model: type[BaseModel], path: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{path}.{name}")
        else:
            yield f"{path}.{name}"


def test_each_field_of_the_model_is_classified() -> None:
    assert {*fields(ClusterSettings, "cluster"), *fields(Node, "nodes")} == KINDS.keys()


def test_what_needs_more_than_a_deploy_is_compared() -> None:
    hard = {field for field, kind in KINDS.items() if kind is not Kind.FREE}
    assert hard == {
        *preflight.RENDERED,
        "cluster.network.services4",
        "cluster.secrets.encrypted_resources",
        "nodes.name",
        "nodes.index",
    }


def rendered(cluster: FakeCluster, inventory: Inventory) -> dict[str, bytes]:
    plan = render.plan(Cluster(cluster.workspace, inventory))
    return {file: plan.files[cluster.workspace.root / file].encode() for file in preflight.FILES}


def changed(inventory: Inventory, field: str, value: Any) -> Inventory:
    document = inventory.model_dump()
    *path, last = field.split(".")
    part = document
    for name in path:
        part = part[name]
    part[last] = value
    return Inventory.model_validate(document)


def deployed(files: Mapping[str, bytes] = {}, index: int = 1) -> Deployed:
    """What a machine says of its past, after a deploy of ``files``, if there was one."""
    entry = Entry("", "ann", "switch", DIGEST, "/nix/store/x", "1", "deployed", "")
    lines = [f"{DIGEST}/{file}:{line}" for file, text in files.items() for line in text.decode().split("\n")]
    history = (json.dumps(asdict(entry)),) if files else ()
    return Deployed("/nix/store/x", history, "", "", {}, (*lines, "stray"), (f"wgkube{index}.key",))


def check(cluster: FakeCluster, there: Deployed, inventory: Inventory | None = None, *, versions: bool = True) -> None:
    wanted = inventory or cluster.inventory
    files = rendered(cluster, wanted)
    preflight.refuse_changes(Cluster(cluster.workspace, wanted), {"node1": there}, files, versions=versions)


@pytest.mark.parametrize("field", sorted(OTHER))
def test_a_value_that_was_deployed_otherwise_is_refused(field: str, cluster: FakeCluster) -> None:
    machines = deployed(rendered(cluster, cluster.inventory))
    check(cluster, machines)
    with pytest.raises(ErrorGroup) as refused:
        check(cluster, machines, changed(cluster.inventory, field, OTHER[field]))
    assert refused.value.exit_status == 2
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{field}: is {OTHER[field]}, but ") and "nothing was sent; " in line


def test_an_issuer_that_stays_accepted_can_be_replaced(cluster: FakeCluster) -> None:
    machines, host = deployed(rendered(cluster, cluster.inventory)), "cluster.api.external_host"
    wanted = changed(changed(cluster.inventory, host, "new.example.com"), "cluster.api.port", 7443)
    with pytest.raises(ErrorGroup, match=f"add {cluster.inventory.cluster.api.issuer} to cluster.api.previous_issuers"):
        check(cluster, machines, wanted)
    previous = (cluster.inventory.cluster.api.issuer,)
    check(cluster, machines, changed(wanted, "cluster.api.previous_issuers", previous))
    with pytest.raises(ErrorGroup, match="domain"):
        other = changed(wanted, "cluster.domain", "other.internal")
        check(cluster, machines, changed(other, "cluster.api.previous_issuers", previous))


@pytest.mark.parametrize(
    ("field", "value"),
    [("cluster.network.mtu", 1380), ("cluster.api.allow_from", ("10.0.0.0/8",)), ("cluster.backup.dir", "b")],
)
def test_a_free_value_is_deployed(field: str, value: Any, cluster: FakeCluster) -> None:
    check(cluster, deployed(rendered(cluster, cluster.inventory)), changed(cluster.inventory, field, value))


@pytest.mark.parametrize(("field", "value"), [("cluster.kubernetes", "1.35"), ("cluster.nixos", "26.05")])
def test_an_upgrade_alone_may_change_versions(field: str, value: str, cluster: FakeCluster) -> None:
    machines = deployed(rendered(cluster, cluster.inventory))
    other = changed(cluster.inventory, field, value)
    check(cluster, machines, other, versions=False)
    with pytest.raises(ErrorGroup, match=r"nothing was sent; run `inv cluster\.upgrade`, or restore the previous"):
        check(cluster, machines, other)


def test_a_machine_of_another_index_is_refused(cluster: FakeCluster) -> None:
    machine = deployed(rendered(cluster, cluster.inventory), index=2)
    with pytest.raises(ErrorGroup, match=r"node1: this machine was deployed as node2; nothing was sent; name it node2"):
        check(cluster, machine)


def test_a_first_deploy_and_lost_machines_are_no_obstacle(cluster: FakeCluster) -> None:
    check(cluster, deployed(), changed(cluster.inventory, "cluster.domain", "other.internal"))
    preflight.refuse_changes(cluster.cluster, {}, {}, versions=True)


def test_resources_that_are_encrypted_stay_named(cluster: FakeCluster) -> None:
    path, machines = "cluster.secrets.encrypted_resources", deployed()
    check(cluster, machines, changed(cluster.inventory, path, ("secrets", "configmaps")))
    with pytest.raises(ErrorGroup, match=f"{path}: lacks secrets, whose objects are encrypted in etcd"):
        check(cluster, machines, changed(cluster.inventory, path, ("configmaps",)))
    cluster.workspace.master_key.unlink()
    check(cluster, machines, changed(cluster.inventory, path, ("configmaps",)))


@pytest.mark.parametrize(
    ("previous", "now", "named"),
    [("ipv6", "ipv4", True), ("", "ipv4", True), ("", "ipv6", False), ("ipv4", "ipv4", False), (None, "ipv4", False)],
)
def test_another_preferred_family_is_named(previous: str | None, now: str, named: bool, cluster: FakeCluster) -> None:
    files = rendered(cluster, changed(cluster.inventory, "cluster.network.prefer", now))
    then = {file: re.sub(rb' prefer = "\w+";', f' prefer = "{previous}";'.encode(), files[file]) for file in files}
    if not previous:
        then = {file: text.replace(b'prefer = ""', b"") for file, text in then.items()}
    machines = {"node1": deployed({} if previous is None else then)}
    preflight.refuse_changes(Cluster(cluster.workspace, cluster.inventory), machines, files, versions=True)
    found = "\n".join(preflight.preferred_family(machines, files))
    family = now.replace("ip", "IP")
    assert f"network.prefer: the first address of node1 and of their pods will be {family};" in found or not named
    assert bool(found) == named


BOTH = {"services6": "fd88::/112"}


@pytest.mark.parametrize(
    ("previous", "now", "taken"),
    [
        ({}, BOTH, True),
        ({}, BOTH | {"prefer": "ipv6"}, False),
        ({}, {"services4": "10.96.0.0/16"}, False),
        ({}, {"services4": "10.88.0.0/25"}, False),
        ({"prefer": "ipv6"}, BOTH, True),
        ({"services4": "10.96.0.0/16"}, BOTH | {"services4": "10.96.0.0/16"}, True),
        (BOTH, {}, False),
        (BOTH, BOTH | {"prefer": "ipv6"}, False),
        (BOTH, {"services6": "fd88::/120"}, False),
        (None, BOTH, True),
    ],
)
def test_services_take_a_second_range_alone(
    previous: dict[str, str] | None, now: dict[str, str], taken: bool, cluster: FakeCluster
) -> None:
    def wanted(values: dict[str, str]) -> Inventory:
        inventory = cluster.inventory
        for name, value in values.items():
            inventory = changed(inventory, f"cluster.network.{name}", value)
        return inventory

    # None: of a version that had no such keys.
    then = rendered(cluster, wanted(previous or {}))
    if previous is None:
        then = {file: re.sub(rb"    (services[46]|prefer) = .*\n", b"", text) for file, text in then.items()}
    if taken:
        check(cluster, deployed(then), wanted(now))
    else:
        with pytest.raises(
            ErrorGroup, match=r"^cluster\.network: Services would be in \S+( \S+)?, but .* second range"
        ):
            check(cluster, deployed(then), wanted(now))


@given(st.text())
def test_any_answer_of_a_machine_is_only_compared(text: str) -> None:
    found = preflight.values(text)
    assert found.keys() <= {*preflight.RENDERED.values(), "services4", "services6", "prefer"}
    assert all(value.isascii() and value.isprintable() and len(value) <= 253 for value in found.values())
