"""Proves what is found right and wrong in the state of a machine, from what inspect.sh prints."""

import pytest

from smallkube.core.workspace import Workspace
from smallkube.deploy import checks, inspection
from smallkube.deploy.inspection import State
from smallkube.inventory.load import load
from smallkube.inventory.models import Inventory, Node

SYSTEM = "/nix/store/abc-nixos-system-node2"
PRINTED = """\
@time
1000
@system
/nix/store/abc-nixos-system-node2
/nix/store/abc-nixos-system-node2
system-7-link
900
@history
{"digest": "d1", "system": "/nix/store/abc-nixos-system-node2", "generation": "7", "time": "t", "operator": "me"}
@addresses
[{"ifname": "brkube", "addr_info": [{"local": "fd88:2::1"}, {"local": "10.88.2.1"}]}, {"ifname": "lo"}]

@ping
fd88:1::1 0.4
10.88.1.1 1.5
@mtu
fd88:1::1 0.6
10.88.1.1 1.7
@handshakes
KEY1 990
@tables
table ip kube-nat
table ip6 kube-nat
table inet nixos-fw
@secrets
/run/agenix/wgkube.key 440 root systemd-network
/run/agenix/kube_token_node2 400 root root
/run/agenix/kubelet_node2.key 400 root root
@readable
wgkube2.key.age
kube_token_node2.age
kubelet_node2.key.age
@etcd
@units
Id=kubelet.service
LoadState=loaded
ActiveState=active
ConditionResult=yes
ConditionTimestampMonotonic=5

Id=crio.service
LoadState=loaded
ActiveState=inactive
ConditionResult=no
ConditionTimestampMonotonic=5
"""
KEYS = {1: "KEY1", 2: "KEY2"}
FILES = ("wgkube2.key.age", "kube_token_node2.age", "kubelet_node2.key.age", "kube_token_root.age")


@pytest.fixture
def inventory(workspace: Workspace) -> Inventory:
    return load(workspace.inventory_file)


def state(*changes: tuple[str, str]) -> State:
    text = PRINTED
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return inspection.parse(text)


def failed(findings: list[checks.Finding]) -> dict[str, str]:
    return {finding.check: finding.detail for finding in findings if finding.result == "failed"}


def network(inventory: Inventory, found: State) -> dict[str, str]:
    return failed(list(checks.network(inventory, inventory.node("node2"), found, KEYS)))


def test_a_machine_that_is_well_has_no_fault(inventory: Inventory) -> None:
    node = inventory.node("node2")
    assert network(inventory, state()) == {}
    assert failed(list(checks.system(inventory, node, state(), "d1"))) == {}
    assert failed(list(checks.protection(inventory, node, state(), FILES))) == {}


@pytest.mark.parametrize(
    ("change", "check", "detail"),
    [
        (('{"local": "fd88:2::1"}, ', ""), "brkube", "fd88:2::1 is missing"),
        (("KEY1 990", "KEY1 0"), "wgkube", "node1: no handshake"),
        (("KEY1 990", "KEY1 700"), "wgkube", "node1: last handshake 300 s ago"),
        (("fd88:1::1 0.4", "fd88:1::1 lost"), "ping IPv6", "node1 (fd88:1::1) does not answer"),
        (("10.88.1.1 1.7", "10.88.1.1 lost"), "ping IPv4", "loses packets of 1420 bytes"),
    ],
)
def test_faults_of_the_network(inventory: Inventory, change: tuple[str, str], check: str, detail: str) -> None:
    found = network(inventory, state(change))
    assert list(found) == [check]
    assert detail in found[check]


@pytest.mark.parametrize(
    ("change", "check", "detail"),
    [
        (("table ip6 kube-nat\n", ""), "nftables", "no table ip6 kube-nat"),
        (("/run/agenix/kube_token_node2 400", "/run/agenix/kube_token_node2 444"), "/run/agenix", "has 444 root root"),
        (("/run/agenix/kubelet_node2.key 400 root root\n", ""), "/run/agenix", "kubelet_node2.key is missing"),
        (("@readable\n", "@readable\nkube_token_root.age\n"), "host key", "can decrypt kube_token_root.age"),
        (("@readable\nwgkube2.key.age\n", "@readable\n"), "host key", "can't decrypt wgkube2.key.age"),
    ],
)
def test_faults_of_the_protection(inventory: Inventory, change: tuple[str, str], check: str, detail: str) -> None:
    found = failed(list(checks.protection(inventory, inventory.node("node2"), state(change), FILES)))
    assert list(found) == [check]
    assert detail in found[check]


@pytest.mark.parametrize(
    ("printed", "detail"),
    [("", "no socket"), ("healthy\n", ""), ("unhealthy: it is healthy, etcdctl says\n", "unhealthy: it is")],
)
def test_etcd_is_healthy_when_the_script_says_so(inventory: Inventory, printed: str, detail: str) -> None:
    found = checks.services(inventory.node("node1"), state(("@etcd\n", f"@etcd\n{printed}")))
    (etcd,) = [finding for finding in found if finding.check == "etcd"]
    assert (etcd.result == "failed", detail in etcd.detail) == (bool(detail), True)


def test_drift_is_told_apart(inventory: Inventory) -> None:
    def said(found: State, digest: str) -> str:
        return failed(list(checks.system(inventory, inventory.node("node2"), found, digest)))["system"]

    assert "the workspace has changed since" in said(state(), "d2")
    assert "another system boots next" in said(state((f"{SYSTEM}\nsystem", "/nix/store/old\nsystem")), "d1")
    assert "not what was deployed" in said(state((f'"system": "{SYSTEM}"', '"system": "/nix/store/x"')), "d1")
    history = PRINTED[PRINTED.index("{") : PRINTED.index("@addresses")]
    assert said(state((history, "")), "d1") == "nothing was ever deployed"


def test_a_unit_whose_condition_is_not_met_is_inactive_and_one_that_is_down_has_failed(inventory: Inventory) -> None:
    findings = {finding.result: finding.detail for finding in checks.services(inventory.node("node2"), state())}
    assert findings["ok"] == "run: kubelet"
    assert findings["inactive"] == "can't run here (condition not met): crio"
    assert "kube-proxy" in findings["failed"]


def test_etcd_is_asked_for_on_the_primary_only(inventory: Inventory) -> None:
    def named(node: Node) -> set[str]:
        return {finding.check for finding in checks.services(node, state())}

    assert "etcd" in named(inventory.primary)
    assert "etcd" not in named(inventory.node("node2"))
