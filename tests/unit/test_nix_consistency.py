"""Proves that each way in which a description, or those of several nodes together, can be contradictory is found."""

import copy
from typing import Any

import pytest

from lab.checks.consistency import fleet_complaints, node_complaints
from lab.checks.evaluate import Description
from lab.checks.systemd_text import section, sections


def unit(text: str, **more: Any) -> dict[str, Any]:
    return {"text": text, "aliases": [], "wantedBy": [], "requiredBy": [], "enable": True, "dropin": False, **more}


def description(number: int, others: tuple[int, ...]) -> Description:
    peers = "".join(
        f"[WireGuardPeer]\nAllowedIPs=fd88:{n}::/32\nAllowedIPs=10.88.{n}.0/24\nEndpoint=192.0.2.{n}:51820\n"
        for n in others
    )
    routes = "".join(
        f"[Route]\nDestination=fd88:{n}::/32\nPreferredSource=fd88:{number}::1\n"
        f"[Route]\nDestination=10.88.{n}.0/24\nPreferredSource=10.88.{number}.1\n"
        for n in others
    )
    return {
        "units": {
            "a.service": unit(
                "[Unit]\nAfter=b.service network-online.target\n[Service]\nUser=a\nExecStart=/a /run/agenix/k\n"
            ),
            "b.service": unit("[Service]\nDynamicUser=true\nUser=b\n", wantedBy=["multi-user.target"]),
        },
        "networkd": {
            "10-brkube.network": f"[Address]\nAddress=fd88:{number}::1/32\n[Address]\nAddress=10.88.{number}.1/24\n",
            "11-wgkube.netdev": f"[WireGuard]\nListenPort=51820\nPrivateKeyFile=/run/agenix/k\n{peers}",
            "11-wgkube.network": f"[Address]\nAddress=10.88.{number}.1/32\n{routes}",
        },
        "users": {"a": {"group": "a", "extraGroups": ["keys"]}},
        "groups": {"a": {"gid": None, "members": []}},
        "baseUsers": ["root", "systemd-network"],
        "baseGroups": ["root", "keys", "systemd-network"],
        "secrets": {"k": {"path": "/run/agenix/k", "owner": "0", "group": "systemd-network"}},
        "etc": {"x": {"text": "", "user": "root", "group": "root"}},
        "scripts": {},
        "activationScripts": [],
    }


@pytest.fixture
def fleet() -> dict[str, Description]:
    return {f"node{n}": description(n, tuple(o for o in (1, 2, 3) if o != n)) for n in (1, 2, 3)}


def test_a_sound_fleet_has_no_complaints(fleet: dict[str, Description]) -> None:
    assert fleet_complaints(fleet) == ()
    assert [node_complaints(entry) for entry in fleet.values()] == [(), (), ()]


FAULTS = [
    ("unit", lambda d: d["units"].pop("b.service"), "a.service names b.service"),
    ("wanted by", lambda d: d["units"]["b.service"].update(wantedBy=["c.service"]), "b.service names c.service"),
    ("target", lambda d: d["units"]["b.service"].update(wantedBy=["mutli-user.target"]), "names mutli-user.target"),
    ("user", lambda d: d["users"].pop("a"), "a.service runs as a, which is no user"),
    ("group", lambda d: d["groups"].pop("a"), "the user a is in a, which is no group"),
    ("secret", lambda d: d["secrets"].pop("k"), "reads /run/agenix/k, which is no secret of this node"),
    ("owner", lambda d: d["secrets"]["k"].update(owner="nobody-knows"), "the secret k belongs to nobody-knows"),
    (
        "secret's group",
        lambda d: d["secrets"]["k"].update(group="etcd"),
        "the secret k belongs to etcd, which is no group",
    ),
    ("file", lambda d: d["etc"]["x"].update(group="etcd"), "/etc/x belongs to root:etcd"),
    (
        "cycle",
        lambda d: d["units"]["b.service"].update(text="[Unit]\nAfter=a.service\n"),
        "in a circle: a.service after b.service after a.service",
    ),
    (
        "cycle by Before",
        lambda d: d["units"]["a.service"].update(text="[Unit]\nAfter=b.service\nBefore=b.service\n"),
        "in a circle",
    ),
    ("script", lambda d: d["scripts"].update({"/s": "cat /run/agenix/other"}), "/s reads /run/agenix/other"),
    (
        "supplementary group",
        lambda d: d["units"]["b.service"].update(text="[Service]\nDynamicUser=yes\nSupplementaryGroups=wheel\n"),
        "b.service runs in wheel",
    ),
]


@pytest.mark.parametrize(("change", "complaint"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_faults_within_a_node(change: Any, complaint: str, fleet: dict[str, Description]) -> None:
    broken = copy.deepcopy(fleet["node1"])
    change(broken)
    assert [text for text in node_complaints(broken) if complaint in text]


def edit(description: Description, file: str, old: str, new: str) -> None:
    text = description["networkd"][file]
    assert old in text
    description["networkd"][file] = text.replace(old, new)


TUNNEL = [
    (
        "11-wgkube.network",
        "[Route]\nDestination=10.88.2.0/24\nPreferredSource=10.88.1.1\n",
        "",
        "10.88.2.0/24 is AllowedIPs of a peer but has no route",
    ),
    ("11-wgkube.netdev", "AllowedIPs=10.88.2.0/24\n", "", "10.88.2.0/24 is a route but no peer's"),
    ("11-wgkube.netdev", "AllowedIPs=10.88.2.0/24", "AllowedIPs=10.88.0.0/16", "10.88.0.0/16 and 10.88.3.0/24 overlap"),
    (
        "11-wgkube.network",
        "PreferredSource=fd88:1::1",
        "PreferredSource=fd88:9::1",
        "source fd88:9::1 is no address of this node",
    ),
]


@pytest.mark.parametrize(("file", "old", "new", "complaint"), TUNNEL)
def test_faults_of_the_tunnel(file: str, old: str, new: str, complaint: str, fleet: dict[str, Description]) -> None:
    edit(fleet["node1"], file, old, new)
    assert [text for text in node_complaints(fleet["node1"]) if complaint in text]


def test_nodes_that_do_not_fit_each_other(fleet: dict[str, Description]) -> None:
    edit(fleet["node3"], "10-brkube.network", "10.88.3.1/24", "10.88.2.1/24")
    edit(fleet["node2"], "11-wgkube.netdev", "Endpoint=192.0.2.1:51820", "Endpoint=192.0.2.1:51821")
    complaints = "\n".join(fleet_complaints(fleet))
    assert "node2 and node3: their containers' networks overlap: 10.88.2.0/24 and 10.88.2.0/24" in complaints
    assert "node1: its tunnel leads to 10.88.3.0/24, where no node is" in complaints
    assert "node2: calls peers on port 51821, where nothing listens" in complaints


def test_a_node_that_the_others_do_not_know(fleet: dict[str, Description]) -> None:
    fleet["node4"] = description(4, (1, 2, 3))
    complaints = fleet_complaints(fleet)
    assert "node1: 2 peers for 3 other nodes" in complaints
    assert "node1: its tunnel does not lead to fd88:4::/32" in complaints


def test_sections_repeat_and_lines_continue() -> None:
    text = "# comment\n[A]\nK=1\nK=2\n;x=y\n[B]\nL=a \\\n  b\n[A]\nK=3\n"
    assert [(entry.name, entry.keys) for entry in sections(text)] == [
        ("A", {"K": ["1", "2"]}),
        ("B", {"L": ["a  b"]}),
        ("A", {"K": ["3"]}),
    ]
    assert section(text, "B").words("L") == ["a", "b"]
    assert section(text, "C").keys == {}
