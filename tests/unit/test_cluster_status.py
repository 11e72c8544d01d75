"""Proves what is made of a cluster's state: what API server and machines say becomes a line for each node, a fault is
named once, and what nobody could be asked is told as unknown.
"""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from smallkube.cli import cluster as task
from smallkube.core.errors import SmallkubeError
from smallkube.deploy import facts
from smallkube.deploy.facts import NODE_UNITS, HostFacts
from smallkube.inventory.load import parse
from smallkube.inventory.models import Inventory
from smallkube.kube import kubectl
from smallkube.kube.kubectl import Api, Lease
from smallkube.kube.members import MARK, Member, parse_member
from smallkube.operations import status
from smallkube.operations.cluster_facts import Facts, Machine, Running, Use
from smallkube.operations.status import Row
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.host import Result
from smallkube.secrets import certificates, policy, transaction
from smallkube.secrets.policy import Certificate
from smallkube.secrets.transaction import Keys
from tests.unit.fake_cluster import FakeCluster

TEXT = "cluster: {name: test}\nnodes: {node1: {peer_ip: 192.0.2.1}, node2: {peer_ip: 192.0.2.2}}\n"
NOW = datetime.fromtimestamp(1_000_000, UTC)
KEYS = {1: "KEY1", 2: "KEY2"}
HOST = "node2.k8s.internal"
LAST = {"time": "t", "operator": "me", "goal": "switch", "generation": "7", "outcome": "deployed", "reason": ""}
UNITS = dict.fromkeys(NODE_UNITS, "active")
FACTS: dict[str, Any] = {
    "clock": 1_000_000,
    "system": "/nix/store/abc-system",
    "profile": "/nix/store/abc-system",
    "generation": "7",
    "history": [json.dumps({**LAST, "digest": "digest-of-the-bundle", "system": "/nix/store/abc-system"})],
    "bridge": ["fd88:2::1", "10.88.2.1"],
    "ping": {"fd88:1::1": 0.4, "10.88.1.1": 1.5},
    "mtu": {"fd88:1::1": 0.6, "10.88.1.1": 1.7},
    "handshakes": {"KEY1": 999_990, "UNKNOWN": 999_990},
    "tables": [],
    "secrets": {},
    "readable": [],
    "etcd": "",
    "sources": {},
    "dropping": ["inet nixos-fw forward"],
}


def inventory() -> Inventory:
    return parse(TEXT, Path("inventory.yaml"))


def state(units: dict[str, str] = UNITS, **changes: object) -> Machine[HostFacts]:
    printed = "\n\n".join(f"Id={name}.service\nActiveState={active}" for name, active in units.items())
    host = FakeHost(inventory().nodes[1], lambda _: reply(json.dumps(FACTS | {"units": printed} | changes)))
    found = facts.of_host(host, inventory(), "digest")
    return Machine(found, Running("6.12.1", {"kubelet": "v1.34.2", "kube-proxy": "v1.34.2"}))


READY = Member(True, False, False, "v1.34.1")
DIGEST = "digest-of-the-bundle"
HEALTHY = Api("v1.34.2", (), {HOST: READY}, {HOST: Lease(NOW - timedelta(seconds=7), 40)})


def row(said: Api = HEALTHY, seen: Machine[HostFacts] | SmallkubeError | None = None, digest: str = DIGEST) -> Row:
    return status.row(inventory(), inventory().nodes[1], seen or state(), said, digest, KEYS)


def test_a_healthy_node() -> None:
    assert row() == Row(
        "node2", "worker", "v1.34.2", "6.12.1", "7", "Ready", False, 7, "1 of 1", "digest-of-th", "", ()
    )


@pytest.mark.parametrize(
    ("said", "ready", "word"),
    [
        (replace(HEALTHY, members={HOST: replace(READY, ready=False)}), "NotReady", "is NotReady"),
        (replace(HEALTHY, members={}), "missing", "is missing"),
        (
            replace(HEALTHY, leases={HOST: Lease(NOW - timedelta(seconds=41), 40)}),
            "Ready",
            "lease was renewed 41 s ago",
        ),
        (
            replace(HEALTHY, members={HOST: replace(READY, cordoned=True, marked=True)}),
            "Ready",
            "inv nodes.uncordon --node node2",
        ),
    ],
)
def test_what_the_api_server_says_of_a_node_that_is_not(said: Api, ready: str, word: str) -> None:
    found = row(said)
    assert found.ready == ready
    assert len(found.problems) == 1
    assert word in found.problems[0]


def test_a_node_that_a_person_has_cordoned_is_shown_and_no_fault() -> None:
    found = row(replace(HEALTHY, members={HOST: replace(READY, cordoned=True)}))
    assert (found.cordoned, found.problems) == (True, ())


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (state(handshakes={"KEY1": 0}), "wgkube: node1: no handshake"),
        (state(handshakes={"KEY1": 999_000}), "wgkube: node1: last handshake 1000 s ago"),
        (state(ping={"10.88.1.1": 1.5}), "ping IPv6: node1 (fd88:1::1) does not answer"),
        (state(system="/nix/store/other", profile="/nix/store/other"), "system: runs /nix/store/other"),
        (state({**UNITS, "kubelet": "failed"}), "services: do not run: kubelet"),
    ],
)
def test_faults_of_the_machine_are_problems(found: Machine[HostFacts], word: str) -> None:
    problems = row(seen=found).problems
    assert len(problems) == 1
    assert problems[0].startswith(word)


def test_wide_shows_what_each_service_uses(capsys: pytest.CaptureFixture[str]) -> None:
    uses = {"crio": Use(50 << 10, 9 << 10, 10, 1000), "kubelet": Use(80 << 10, 20 << 10, 5, 1000)}
    seen = state()
    found = row(seen=replace(seen, running=replace(seen.running, uses=uses)))
    other = row(seen=SmallkubeError("unreachable"))
    task.show_uses([found, replace(other, node="node3")])
    lines = [re.split(" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["NODE", "ALL SERVICES", "CRIO", "KUBELET"],
        ["node2", "130 MiB 1.5 %", "50 MiB 1.0 %", "80 MiB 0.5 %"],
        ["node3", "-", "-", "-"],
    ]


def test_a_handshake_with_an_unknown_peer_does_not_count() -> None:
    assert row(seen=state(handshakes={"KEY1": 0, "UNKNOWN": 999_990})).tunnel == "0 of 1"


def test_another_bundle_than_the_workspace_has_is_drift() -> None:
    found = row(digest="another")
    assert "the workspace has changed" in found.drift
    assert found.problems == (f"system: {found.drift}",)


def test_an_unreachable_machine_is_shown_with_what_is_known() -> None:
    fresh = replace(HEALTHY, leases={HOST: Lease(datetime.now(UTC), 40)})
    found = row(fresh, SmallkubeError("unreachable"))
    assert (found.kubelet, found.ready, found.tunnel, found.problems) == ("v1.34.1", "Ready", "?", ("unreachable",))


def test_without_the_api_server_the_machines_facts_are_shown() -> None:
    found = row(Api())
    assert (found.kubelet, found.ready, found.lease_seconds, found.problems) == ("v1.34.2", "?", None, ())


def node(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": HOST}, "spec": {}, "status": status}


def test_a_node_object_is_read() -> None:
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.34.1"}}
    assert parse_member(node(**ready)) == READY
    assert parse_member(node()) == Member(False, False, False, "")
    cordoned = {**node(**ready), "spec": {"unschedulable": True}}
    assert parse_member(cordoned) == replace(READY, cordoned=True)
    cordoned["metadata"] = {"annotations": {MARK: "deploy"}}
    assert parse_member(cordoned) == replace(READY, cordoned=True, marked=True)


def test_leases_are_read() -> None:
    spec = {"renewTime": "2026-01-02T03:04:05.678901Z", "leaseDurationSeconds": 60}
    found = kubectl.parse_leases([{"metadata": {"name": "a"}, "spec": spec}, {"metadata": {"name": "b"}, "spec": {}}])
    assert found == {"a": Lease(datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), 60)}


EMPTY = '{"apiVersion": "v1", "items": [], "kind": "List"}'
REPLIES = {
    "/version": reply('{"gitVersion": "v1.34.2"}'),
    "/readyz?verbose": reply("[+]ping ok"),
    "nodes": reply(EMPTY),
    "leases": reply(EMPTY),
}


def asked(**replies: Result) -> Api:
    known = {**REPLIES, **{name.replace("version", "/version"): said for name, said in replies.items()}}
    host = FakeHost(inventory().primary, lambda command: next(known[word] for word in command.argv if word in known))
    return kubectl.read(host)


def test_a_list_that_came_with_an_error_is_no_empty_cluster() -> None:
    assert asked() == Api("v1.34.2", members={})
    for said in (reply(EMPTY, 1, "Unable to connect"), reply(""), reply("[]"), reply('{"items": [{}]}')):
        assert asked(nodes=said) == Api("v1.34.2", members=None)
    listed = reply(json.dumps({"items": [node()]}))
    assert asked(nodes=listed, leases=reply(EMPTY, 1)) == Api("v1.34.2", members={HOST: parse_member(node())})


def test_what_is_not_ready_is_named() -> None:
    said = 'Error from server (InternalError): an error on the server ("[+]ping ok\n[-]etcd failed: reason withheld\n'
    assert kubectl.parse_ready(Result(1, b"", f'{said}[-]etcd-readiness failed") has prevented')) == (
        "etcd",
        "etcd-readiness",
    )
    assert kubectl.parse_ready(Result(1, b"", "timed out")) == ("timed out",)
    assert kubectl.parse_ready(Result(0, b"[+]ping ok\nreadyz check passed", "")) == ()


@pytest.mark.parametrize("said", [Result(1, b"", "refused"), Result(0, b"", ""), Result(0, b"[]", "")])
def test_an_api_server_that_gives_no_version_does_not_answer(said: Result) -> None:
    assert asked(version=said) == Api()


def keys(days: int) -> Keys:
    """All certificates, valid for so many days still."""
    begins = NOW - certificates.LIFETIME + timedelta(days=days, hours=1)
    wanted = [secret.certificate for secret in policy.secrets_of(inventory()) if secret.certificate]
    return Keys({}, {each.file: certificates.issue(each, certificates.new_key(), begins) for each in wanted})


def test_certificates_are_counted_in_days() -> None:
    days, problems = status.expiries(inventory(), keys(days=61), NOW)
    assert days == dict.fromkeys(policy.public_files(inventory()), 61)
    assert problems == []


def test_a_certificate_that_is_about_to_expire_is_a_problem() -> None:
    assert len(status.expiries(inventory(), keys(days=59), NOW)[1]) == 11
    _, problems = status.expiries(inventory(), keys(days=-3), NOW)
    expired = NOW - timedelta(days=3)
    assert problems[0] == f"keys/apiserver.crt: expired on {expired:%Y-%m-%d} (inv keys.rotate-certificates)"


def test_one_bad_certificate_does_not_hide_the_others() -> None:
    found = dict(keys(days=100).certificates)
    del found["kubelet_node1.crt"]
    found["kubelet_node2.crt"] = b"nonsense"
    days, problems = status.expiries(inventory(), Keys({}, found), NOW)
    assert {*days} == {*policy.public_files(inventory())} - {"kubelet_node1.crt", "kubelet_node2.crt"}
    assert problems == [
        "keys/kubelet_node1.crt: missing (inv keys.generate)",
        "keys/kubelet_node2.crt: not a certificate in PEM (inv keys.rotate-certificates)",
    ]


def test_keys_that_differ_from_what_is_accepted(cluster: FakeCluster) -> None:
    newest = transaction.states(cluster.workspace)[0]

    def problems(keys: str) -> list[str]:
        machine = state(history=[json.dumps({**LAST, "digest": DIGEST, "system": "s", "keys": keys})])
        etcd = SmallkubeError("not asked")
        found = Facts[HostFacts]({"node1": machine, "node2": SmallkubeError("unreachable")}, Api(), etcd, None)
        return [*status.key_problems(cluster.cluster, cluster.connect, found)]

    assert problems(newest) == problems("") == []
    ours = {*cluster.pinned}
    cluster.pinned -= {(cluster.workspace.keys_dir / "node_node2.crt").read_bytes()}
    lacks = "the API server does not accept keys/node_node2.crt"
    assert problems(newest) == [f"{lacks} (inv deploy --node node1)"]
    other = Certificate("x.crt", "x", "clientAuth")
    cluster.pinned = {*ours, certificates.issue(other, certificates.new_key(), datetime.now(UTC))}
    more = "the API server accepts a certificate that is not in keys/ (FILE)"
    assert problems(newest) == [f"{more} (inv deploy --node node1)"]
    older = "node1 has newer keys than this workspace (git pull)"
    assert problems("newer") == [older, f"{more} (git pull)"]
    cluster.off = {"node1"}
    assert problems("newer") == [older, "can't be reached"]
