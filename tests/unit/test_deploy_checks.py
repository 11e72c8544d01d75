"""Verifies the checks of a machine's facts, and which health checks count against a new system."""

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smallkube.core.checks import Check, Result
from smallkube.core.workspace import Workspace
from smallkube.deploy import checks, facts
from smallkube.deploy.checks import Health, broken, unconfirmed
from smallkube.deploy.facts import DeployFacts, HostFacts, Progress
from smallkube.inventory.load import load, parse
from smallkube.inventory.models import Inventory, Node
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.host import Command
from smallkube.secrets.host_keys import parse_host_key

WORDS = ("kubelet", "node", "coredns", "kube-proxy")
SYSTEM = "/nix/store/abc-nixos-system-node2"
LAST = {"time": "t", "operator": "me", "goal": "switch", "digest": "d1", "system": SYSTEM, "generation": "7"}
FACTS: dict[str, Any] = {
    "clock": 1000,
    "system": SYSTEM,
    "profile": SYSTEM,
    "generation": "7",
    "history": [json.dumps({**LAST, "outcome": "deployed", "reason": ""})],
    "bridge": ["fd88:2::1", "10.88.2.1"],
    "ping": {"fd88:1::1": 0.4, "10.88.1.1": 1.5},
    "mtu": {"fd88:1::1": 0.6, "10.88.1.1": 1.7},
    "handshakes": {"KEY1": 990},
    "tables": ["ip kube-nat", "ip6 kube-nat", "inet nixos-fw"],
    "secrets": {
        "wgkube.key": "440 root systemd-network",
        **{f"{word}_node2.key": "400 root root" for word in WORDS},
    },
    "readable": ["wgkube2.key.age", *(f"{word}_node2.key.age" for word in WORDS)],
    "etcd": "",
    "sources": {},
    "dropping": ["inet nixos-fw forward"],
    "units": """\
Id=kubelet.service
LoadState=loaded
ActiveState=active
ConditionResult=yes
ConditionTimestampMonotonic=5

Id=crio.service
LoadState=loaded
ActiveState=inactive
ConditionResult=no
ConditionTimestampMonotonic=5""",
}
KEYS = {1: "KEY1", 2: "KEY2"}
FILES = (*FACTS["readable"], "kube_token_root.age")
NOW = 1_700_000_000.0
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKuln964CDvuGUSVZqHhUY1et7pPXWWNyKqTze0Zd9Rr"
OK, FAILED, SKIPPED = Result.OK, Result.FAILED, Result.SKIPPED


@pytest.fixture
def inventory(workspace: Workspace) -> Inventory:
    return load(workspace.inventory_file)


def read(inventory: Inventory, **changes: object) -> HostFacts:
    printed = reply(json.dumps(FACTS | changes))
    return facts.of_host(FakeHost(inventory.node("node2"), lambda _: printed), inventory, "d1")


def failed(found: Iterable[Check]) -> dict[str, str]:
    return {check.check: check.detail for check in found if check.result is FAILED}


def without(name: str, element: str) -> dict[str, object]:
    return {name: [each for each in FACTS[name] if element not in each]}


def secrets(**changes: str | None) -> dict[str, object]:
    return {"secrets": {name: rights for name, rights in {**FACTS["secrets"], **changes}.items() if rights}}


def test_a_healthy_machine_has_no_fault(inventory: Inventory) -> None:
    node, found = inventory.node("node2"), read(inventory)
    assert failed(checks.network(inventory, node, found, KEYS)) == {}
    assert checks.system(node, found, "d1").result is OK
    assert failed(checks.protection(inventory, node, found, FILES)) == {}


@pytest.mark.parametrize(
    ("changes", "check", "detail"),
    [
        ({"bridge": ["10.88.2.1"]}, "brkube", "fd88:2::1 is missing"),
        ({"handshakes": {"KEY1": 0}}, "wgkube", "node1: no handshake"),
        ({"handshakes": {}}, "wgkube", "node1: no handshake"),
        ({"handshakes": {"KEY1": 700}}, "wgkube", "node1: last handshake 300 s ago"),
        ({"ping": {"fd88:1::1": None, "10.88.1.1": 1.5}}, "ping IPv6", "node1 (fd88:1::1) does not answer"),
        ({"mtu": {"fd88:1::1": 0.6, "10.88.1.1": None}}, "ping IPv4", "loses packets of 1420 bytes"),
    ],
)
def test_faults_of_the_network(inventory: Inventory, changes: dict[str, object], check: str, detail: str) -> None:
    found = failed(checks.network(inventory, inventory.node("node2"), read(inventory, **changes), KEYS))
    assert list(found) == [check]
    assert detail in found[check]


IPV6 = "cluster: {name: t%s}\nnodes: {node1: {peer_ip: '2001:DB8::1'}, node2: {peer_ip: '2001:db8:0::2'}}\n"


@pytest.mark.parametrize(
    ("network", "sources", "result"),
    [
        ("", {"2001:db8::1": "2001:db8::2"}, OK),
        ("", {"2001:db8::1": "2001:db8::f00d"}, FAILED),
        ("", {"2001:db8::1": ""}, OK),
        ("", {"192.0.2.1": "192.0.2.2"}, OK),
        (", network: {private: ['2001:db8::/64']}", {"2001:db8::1": "2001:db8::f00d"}, None),
    ],
)
def test_the_tunnel_sends_from_the_address_of_the_node(
    network: str, sources: dict[str, str], result: Result | None
) -> None:
    inventory = parse(IPV6 % network, Path("inventory.yaml"))
    found = {check.check: check for check in _network(inventory, sources=sources)}
    assert (found["source"].result if "source" in found else None) is result
    if result is FAILED:
        assert found["source"].detail.startswith("sends to node1 from 2001:db8::f00d, not from peer_ip")


def test_ipv4_sources_are_not_compared(inventory: Inventory) -> None:
    assert not [check for check in _network(inventory, sources={"192.0.2.1": "10.0.0.5"}) if check.check == "source"]


@pytest.mark.parametrize("chain", ["ip filter FORWARD", "ip6 filter FORWARD", "inet firewalld filter_FORWARD"])
def test_chains_that_drop_what_pods_send_are_named(inventory: Inventory, chain: str) -> None:
    (found,) = [check for check in _network(inventory, dropping=[*FACTS["dropping"], chain]) if chain in check.detail]
    assert (found.check, found.result) == ("forwarding", Result.WARNING)


def _network(inventory: Inventory, **changes: object) -> list[Check]:
    return [*checks.network(inventory, inventory.node("node2"), read(inventory, **changes), KEYS)]


@pytest.mark.parametrize(
    ("changes", "check", "detail"),
    [
        (without("tables", "ip6"), "nftables", "no table ip6 kube-nat"),
        (secrets(**{"node_node2.key": "444 root root"}), "/run/agenix", "node_node2.key has 444 root root"),
        (secrets(**{"node_node2.key": None}), "/run/agenix", "node_node2.key is missing"),
        (secrets(x="400 root root"), "/run/agenix", "x must not be on this node"),
        ({"readable": [*FACTS["readable"], "kube_token_root.age"]}, "host key", "can decrypt kube_token_root.age"),
        (without("readable", "wgkube2"), "host key", "can't decrypt wgkube2.key.age"),
    ],
)
def test_faults_of_the_protection(inventory: Inventory, changes: dict[str, object], check: str, detail: str) -> None:
    found = failed(checks.protection(inventory, inventory.node("node2"), read(inventory, **changes), FILES))
    assert list(found) == [check]
    assert detail in found[check]


def test_without_age_the_host_key_is_skipped(inventory: Inventory) -> None:
    *_, check = checks.protection(inventory, inventory.node("node2"), read(inventory, readable=None), FILES)
    assert (check.check, check.result) == ("host key", SKIPPED)


@pytest.mark.parametrize(
    ("printed", "detail"),
    [("", "no socket"), ("healthy", ""), ("unhealthy: it is healthy, etcdctl says", "unhealthy: it is")],
)
def test_etcd_is_healthy_when_the_script_says_so(inventory: Inventory, printed: str, detail: str) -> None:
    found = checks.services(inventory.node("node1"), read(inventory, etcd=printed))
    (etcd,) = [check for check in found if check.check == "etcd"]
    assert (etcd.result is FAILED, detail in etcd.detail) == (bool(detail), True)


def test_kinds_of_drift_are_distinguished(inventory: Inventory) -> None:
    def drift(digest: str = "d1", **changes: object) -> str:
        return checks.system(inventory.node("node2"), read(inventory, **changes), digest).detail

    assert "the workspace has changed since" in drift("d2")
    assert "another system boots next" in drift(profile="/nix/store/old")
    assert "not what was deployed" in drift(history=[FACTS["history"][0].replace(SYSTEM, "/nix/store/x")])
    assert drift(history=[]) == "nothing was ever deployed"
    assert drift(history=[FACTS["history"][0].replace("deployed", "rolled back")]) == "nothing was ever deployed"


def test_an_unmet_condition_is_skipped_and_a_unit_down_failed(inventory: Inventory) -> None:
    found = {check.result: check.detail for check in checks.services(inventory.node("node2"), read(inventory))}
    assert found[OK] == "run: kubelet"
    assert found[SKIPPED] == "can't run here (condition not met): crio"
    assert "kube-proxy" in found[FAILED]


def test_etcd_is_checked_on_the_primary_only(inventory: Inventory) -> None:
    def named(node: Node) -> set[str]:
        return {check.check for check in checks.services(node, read(inventory))}

    assert "etcd" in named(inventory.primary)
    assert "etcd" not in named(inventory.node("node2"))


FIT = DeployFacts(
    SYSTEM, (), SYSTEM, "7", True, True, HOST_KEY, 1_700_000_000, 2_000_000, 100_000, frozenset({"a.service"}), ()
)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"host_key": f"{HOST_KEY} another comment\n"}, None),
        ({"host_key": HOST_KEY[:-1] + "q"}, "is not the key that the secrets are encrypted to"),
        ({"host_key": ""}, "is not the key that the secrets are encrypted to"),
        ({"clock": 1_700_000_030}, None),
        ({"clock": 1_700_000_031}, r"its clock is \+31 s off"),
        ({"clock": 0}, "its clock is -1700000000 s off"),
        ({"store_free": (1 << 20) - 1}, "only 1023 MiB free in /nix/store"),
        ({"state_free": 0}, "only 0 MiB free in /var/lib"),
    ],
)
def test_what_makes_a_machine_unfit(changes: dict[str, Any], reason: str | None) -> None:
    expected = parse_host_key(f"# 192.0.2.1:22 SSH-2.0-OpenSSH_9.2p1\n192.0.2.1 {HOST_KEY}\n", "node1.pub")
    reasons = checks.unfit(replace(FIT, **changes), NOW, expected)
    assert len(reasons) == (reason is not None)
    if reason:
        assert re.search(reason, reasons[0])


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({}, []),
        ({"status": None}, ["the activation has not ended"]),
        ({"status": 4}, ["switch-to-configuration ended with status 4"]),
        (
            {"status": 4, "log": "x\nwarning: the following units failed: b.service"},
            ["switch-to-configuration ended with status 4 (b.service)"],
        ),
        ({"system": "/nix/store/old"}, ["it runs /nix/store/old"]),
        ({"failed": frozenset({"c.service", "b.service"})}, ["failed units: b.service, c.service"]),
        ({"failed": frozenset({"a.service"})}, []),
        ({"failed": frozenset({"smallkube-activate-1.service"})}, []),
    ],
)
def test_what_makes_an_activation_unhealthy(changes: dict[str, Any], reasons: list[str]) -> None:
    now = replace(Progress(True, 0, "", None, SYSTEM, frozenset(), ""), **changes)
    assert list(checks.unhealthy(FIT, now, SYSTEM)) == reasons


def check(name: str, result: Result, detail: str = "") -> Check:
    return Check("node2", name, result, detail)


@pytest.mark.parametrize("before", [[], [check("etcd", OK)], [check("etcd", SKIPPED)]])
def test_what_did_not_fail_before_must_not_fail_after(before: list[Check]) -> None:
    assert broken(before, [check("etcd", FAILED, "deadline exceeded")]) == ["etcd: deadline exceeded"]


def test_what_failed_before_is_only_reported() -> None:
    before, after = [check("etcd", FAILED, "x")], [check("etcd", FAILED, "y")]
    assert broken(before, after) == []
    assert unconfirmed(before, after) == ("etcd: y (as before)",)


def test_what_was_skipped_is_reported_and_what_works_is_not() -> None:
    after = [check("kubelet", SKIPPED, "no unit"), check("etcd", OK, "healthy")]
    assert broken([], after) == []
    assert unconfirmed([], after) == ("kubelet (no unit)",)


def health(inventory: Inventory, *own: tuple[str, ...], **options: Any) -> Health:
    node = inventory.node("node2").model_copy(update={"checks": own})
    return Health(inventory, node, lambda primary: FakeHost(primary, answer), **options)


def answer(command: Command) -> Any:
    """etcd has failed, the node is Ready, and the operator's own check fails."""
    if command.name == "node Ready":
        return reply('{"checks": [{"subject": "", "check": "node Ready", "result": "ok", "detail": ""}]}')
    if command.name == "health checks":
        return reply('{"checks": [{"subject": "", "check": "etcd", "result": "failed", "detail": "x"}]}')
    return reply(status=1)


def test_own_checks_count_whatever_they_found_before(inventory: Inventory) -> None:
    found = health(inventory, ("test", "-e", "/x"))
    host = FakeHost(found.node, answer)
    found.measure_before(host)
    assert found.measure_after(host) == ["test -e /x: exit status 1, no message"]
    assert unconfirmed(found.before, found.after) == ("etcd: x (as before)",)


@pytest.mark.parametrize("printed", ["sh: not found", '{"checks": []}', '{"checks": [{"check": "etcd"}]}'])
def test_unexpected_output_of_a_check_is_a_failure(inventory: Inventory, printed: str) -> None:
    found = health(inventory)
    assert found.measure_after(FakeHost(found.node, lambda _: reply(printed))) == [
        "health checks: unexpected output from health checks"
    ]


def test_a_tunnel_that_cannot_work_is_reported(inventory: Inventory) -> None:
    found = health(inventory, without_tunnel="node1 did not get the new peers")
    host = FakeHost(found.node, answer)
    found.measure_before(host)
    assert found.measure_after(host) == []
    assert "tunnel to the primary (node1 did not get the new peers)" in unconfirmed(found.before, found.after)
    (after,) = [each for each in host.commands if "20" in each.argv]
    assert after.argv[-1] == "20"


def test_a_check_with_hundreds_of_faults_names_some() -> None:
    faults = [f"fault {number}" for number in range(253)]
    assert Check.of("node1", "wgkube", faults).detail.split("; ") == [*faults[:16], "237 more"]
    assert Check.of("node1", "wgkube", faults[:16]).detail.split("; ") == faults[:16]
