"""Proves what the modules make of a node, for primary and worker, 2, 3 and 12 nodes and holes in the indices: networkd
files, rules, names, users, secrets, packages and kernel settings, as evaluated by the real Nix."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from lab.checks.evaluate import Description
from lab.checks.systemd_text import Section, sections
from smallkube.core.errors import SmallkubeError

from .conftest import Build, Describe

pytestmark = pytest.mark.integration

Cluster = dict[str, Description]


def index(name: str) -> int:
    return int(name.removeprefix("node"))


def others(cluster: Cluster, name: str) -> list[int]:
    return [index(other) for other in cluster if other != name]


def named(description: Description, file: str, name: str) -> list[Section]:
    return [section for section in sections(description["networkd"][file]) if section.name == name]


def chain(description: Description, name: str) -> list[str]:
    body = description["nftables"].split(f"chain {name} {{\n", 1)[1].split("\n  }", 1)[0]
    return [re.sub(r' comment "[^"]*"', "", line.strip()) for line in body.splitlines()]


def test_every_node_evaluates_without_complaint(cluster: Cluster) -> None:
    for description in cluster.values():
        assert (description["failedAssertions"], description["warnings"], description["unsupported"]) == ([], [], [])


def test_the_description_is_that_of_the_node(cluster: Cluster) -> None:
    assert [description["node"] for description in cluster.values()] == list(cluster)


def test_the_bridge_has_both_addresses_and_a_link_local_one(cluster: Cluster) -> None:
    for name, description in cluster.items():
        (device,) = named(description, "10-brkube.netdev", "NetDev")
        assert device.keys == {"Kind": ["bridge"], "Name": ["brkube"], "MTUBytes": ["1420"]}
        (network,) = named(description, "10-brkube.network", "Network")
        assert network.keys == {
            "ConfigureWithoutCarrier": ["true"],
            "IPv6AcceptRA": ["false"],
            "LinkLocalAddressing": ["false"],
        }
        assert [section.keys for section in named(description, "10-brkube.network", "Address")] == [
            {"Address": [f"fd88:{index(name)}::1/32"], "DuplicateAddressDetection": ["none"]},
            {"Address": [f"10.88.{index(name)}.1/24"], "DuplicateAddressDetection": ["none"]},
            {"Address": ["fe80::1/64"], "DuplicateAddressDetection": ["none"]},
        ]


def test_udev_leaves_the_links_of_pods_alone(cluster: Cluster) -> None:
    for description in cluster.values():
        sections = [named(description, "10-kube-pods.link", name) for name in ("Match", "Link")]
        assert [[section.keys for section in each] for each in sections] == [
            [{"OriginalName": ["veth*"]}],
            [{"MACAddressPolicy": ["none"]}],
        ]


def test_the_tunnel_has_one_peer_for_every_other_node(cluster: Cluster) -> None:
    for name, description in cluster.items():
        (settings,) = named(description, "11-wgkube.netdev", "WireGuard")
        assert settings.keys == {"ListenPort": ["51820"], "PrivateKeyFile": ["/run/agenix/wgkube.key"]}
        peers = named(description, "11-wgkube.netdev", "WireGuardPeer")
        assert [peer.keys["Endpoint"] for peer in peers] == [[f"192.0.2.{n}:51820"] for n in others(cluster, name)]
        assert [peer.keys["AllowedIPs"] for peer in peers] == [
            [f"fd88:{n}::/32", f"10.88.{n}.0/24"] for n in others(cluster, name)
        ]
        assert len({peer.last("PublicKey") for peer in peers}) == len(peers)
        assert all("PersistentKeepalive" not in peer.keys for peer in peers)


def script_of(description: Description, name: str, folder: Path) -> str:
    """A script of a unit as it runs here, with the state of deploys in ``folder``, and programs of ours first."""
    (text,) = [text for path, text in description["scripts"].items() if path.endswith(f"-{name}")]
    lines = text.replace("/run/smallkube", str(folder)).splitlines()[1:]
    return "\n".join(line for line in lines if not line.startswith("export PATH"))


@pytest.fixture
def wg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The words and time of each call of a `wg` that answers with the file "handshakes"."""
    calls, program = tmp_path / "calls", tmp_path / "bin/wg"
    program.parent.mkdir()
    program.write_text(
        f"""#!/bin/bash
        if [ "$1" = show ]; then exec cat {tmp_path}/handshakes; fi
        echo "$EPOCHREALTIME $*" >>{calls}
        """
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return calls


def words(cluster: Cluster, name: str, other: str) -> str:
    """The peer ``other`` of the node ``name``, as networkd has it, for `wg set`."""
    peers = named(cluster[name], "11-wgkube.netdev", "WireGuardPeer")
    (keys,) = [peer.keys for peer in peers if f"10.88.{index(other)}.0/24" in peer.keys["AllowedIPs"]]
    allowed = ",".join(keys["AllowedIPs"])
    return f"peer {keys['PublicKey'][0]} endpoint {keys['Endpoint'][0]} allowed-ips {allowed} persistent-keepalive off"


def test_restarted_networkd_begins_a_session_with_each_peer(cluster: Cluster, tmp_path: Path) -> None:
    for name, description in cluster.items():
        unit = description["units"]["wgkube-handshakes.service"]
        assert unit["wantedBy"] == ["systemd-networkd.service"]
        assert "After=systemd-networkd.service\n" not in unit["text"]  # networkd sets the device before it is ready
        for script in ("wgkube-handshakes", "wgkube-hold"):
            told = f"for address in {' '.join(f'fd88:{n}::1' for n in others(cluster, name))}; do\n"
            assert told in script_of(description, script, tmp_path)


def test_of_two_nodes_one_repeats_a_lost_handshake(two: Cluster, tmp_path: Path, wg: Path) -> None:
    peer = words(two, "node1", "node2")
    key, lower = peer.split()[1], words(two, "node2", "node1").split()[1]

    def repeated(node: str, answer: str) -> list[str]:
        (tmp_path / "handshakes").write_text(f"{answer}\nanother\t0\n")
        script = script_of(two[node], "wgkube-handshakes", tmp_path).replace("left = 99", "left = 29")
        wg.write_text("")
        subprocess.run(["bash", "-c", script], timeout=20, check=True)
        return [line.split(" ", 1)[1] for line in wg.read_text().splitlines()]

    assert repeated("node1", f"{key}\t0") == [f"set wgkube peer {key} remove {peer}"] * 2
    assert repeated("node1", f"{key}\t1700000000") == []
    assert repeated("node2", f"{lower}\t0") == []


def test_networkd_waits_while_a_lockstep_deploy_holds_it(two: Cluster, tmp_path: Path, wg: Path) -> None:
    own = script_of(two["node1"], "wgkube-hold", tmp_path)
    unit = two["node1"]["units"]["systemd-networkd.service"]["text"]
    assert re.search(r"^ExecStartPre=-\+\S+/bin/wgkube-hold$", unit, re.MULTILINE)
    assert subprocess.run(["bash", "-c", own], timeout=10, check=False).returncode == 0
    assert not wg.exists()
    (tmp_path / "n").mkdir()
    (tmp_path / "n/hold").touch()
    with subprocess.Popen(["bash", "-c", own]) as waiting:
        while not (tmp_path / "n/held").exists():
            assert waiting.poll() is None
        moment = time.time_ns() // 1000 + 500_000
        (tmp_path / "n/hold").write_text(f"{moment}\n")
        assert waiting.wait(10) == 0
    assert list((tmp_path / "n").iterdir()) == []
    # At that moment the device gets the new keys.
    (call,) = wg.read_text().splitlines()
    called, said = call.split(" ", 1)
    assert int(called.replace(".", "")) >= moment
    assert said == f"set wgkube private-key /run/agenix/wgkube.key {words(two, 'node1', 'node2')}"


@pytest.mark.parametrize("moment", ["x", "a[$(touch evil)]", "9" * 30])
def test_a_moment_that_is_none_is_not_waited_for(moment: str, two: Cluster, tmp_path: Path, wg: Path) -> None:
    (tmp_path / "n").mkdir()
    (tmp_path / "n/hold").write_text(f"{moment}\n")
    own = script_of(two["node1"], "wgkube-hold", tmp_path)
    assert subprocess.run(["bash", "-c", own], timeout=10, check=False, cwd=tmp_path).returncode == 0
    assert not wg.exists() and not (tmp_path / "evil").exists() and list((tmp_path / "n").iterdir()) == []


def test_routes_lead_to_every_other_node_from_the_own_address(cluster: Cluster) -> None:
    for name, description in cluster.items():
        own = index(name)
        assert [section.keys for section in named(description, "11-wgkube.network", "Route")] == [
            route
            for n in others(cluster, name)
            for route in (
                {"Destination": [f"fd88:{n}::/32"], "PreferredSource": [f"fd88:{own}::1"]},
                {"Destination": [f"10.88.{n}.0/24"], "PreferredSource": [f"10.88.{own}.1"]},
            )
        ]
        (address,) = named(description, "11-wgkube.network", "Address")
        assert address.keys["Address"] == [f"10.88.{own}.1/32"]


def test_input_rules_come_in_the_order_that_protects(cluster: Cluster) -> None:
    for name, description in cluster.items():
        own = index(name)
        wireguard = [f"ip saddr 192.0.2.{n} udp dport 51820 accept" for n in others(cluster, name)]
        kubelet = [
            'iifname "wgkube" ip6 saddr fd88:1::1 tcp dport 10250 accept',
            'iifname "wgkube" ip saddr 10.88.1.1 tcp dport 10250 accept',
            "tcp dport 10250 reject",
        ]
        api = [
            'iifname "brkube" tcp dport 6443 accept',
            'iifname "wgkube" ip6 saddr fd88::/16 tcp dport 6443 accept',
            'iifname "wgkube" ip saddr 10.88.0.0/16 tcp dport 6443 accept',
            *(f"ip saddr 192.0.2.{n} tcp dport 6443 accept" for n in others(cluster, name)),
        ]
        pods = [
            f'iifname "brkube" ip6 saddr fd88:{own}::/32 meta l4proto {{ tcp, udp }} th dport 53 accept',
            f'iifname "brkube" ip saddr 10.88.{own}.0/24 meta l4proto {{ tcp, udp }} th dport 53 accept',
            'iifname { "brkube", "wgkube" } ct status dnat accept',
            f'iifname "wgkube" ip6 daddr fd88:{own}::1 ip6 dscp 43 accept',
            f'iifname "wgkube" ip daddr 10.88.{own}.1 ip dscp 43 accept',
        ]
        rules = _single_sources(chain(description, "input-allow"))
        start = rules.index("ip6 daddr fe80::/64 udp dport 546 accept") + 1
        ours = [rule for rule in rules[start:] if rule != "tcp dport 6443 reject"]
        assert ours == [*wireguard, *kubelet, *(api if own == 1 else []), *pods]
        assert not any("6443" in rule for rule in rules) or own == 1


def _single_sources(rules: list[str]) -> list[str]:
    """Rules with a set of sources, written out as one rule for each."""
    found: list[str] = []
    for rule in rules:
        sources = re.match(r"(ip6? saddr) \{ ([^}]*) \} (.*)", rule)
        listed = sources[2].split(", ") if sources else []
        found += [f"{sources[1]} {source} {sources[3]}" for source in listed] if sources else [rule]
    return found


def test_forwarding_is_limited_to_pods_and_the_tunnel(cluster: Cluster) -> None:
    for name, description in cluster.items():
        assert chain(description, "forward-allow") == [
            "icmpv6 type != { router-renumbering, 139 } accept",
            "ct status dnat accept",
            'iifname "brkube" accept',
            f'iifname "wgkube" ip6 daddr fd88:{index(name)}::/32 accept',
            f'iifname "wgkube" ip daddr 10.88.{index(name)}.0/24 accept',
        ]


def test_nat_spares_the_cluster_and_flushes_no_foreign_rules(two: Cluster) -> None:
    for description in two.values():
        rules = description["nftables"]
        assert "flush ruleset" not in rules
        for family, prefix in (("ip6", "fd88::/16"), ("ip", "10.88.0.0/16")):
            table = rules.split(f"table {family} kube-nat {{", 1)[1].split("\n}\n", 1)[0]
            assert "type nat hook postrouting priority srcnat" in table
            accept = table.index(f'iifname "brkube" {family} daddr {prefix} accept')
            assert accept < table.index('iifname "brkube" masquerade')


def test_cluster_addresses_come_from_its_own_interfaces(cluster: Cluster) -> None:
    for description in cluster.values():
        assert chain(description, "prerouting") == [
            "type filter hook prerouting priority raw; policy accept;",
            'iifname { "lo", "brkube", "wgkube" } accept',
            "ip6 daddr fd88::/16 drop",
            "ip daddr { 10.88.0.0/16 } drop",
        ]


def test_the_kubelets_port_cannot_be_opened_to_pods(build: Build, describe: Describe) -> None:
    tree = build((1, 2)).with_file("nix/hosts/node2.nix", "{ kube.openToPods = [ 10250 ]; }")
    failed = describe(tree)["node2"]["failedAssertions"]
    assert [message for message in failed if "open_to_pods contains 10250" in message] == failed != []


def test_node_ports_answer_where_they_are_wanted(build: Build, describe: Describe) -> None:
    expected = {
        '[ "tunnel" ]': "fd88:2::1/128,10.88.2.1/32",
        '[ "lan" ]': "192.0.2.2/32",
        '[ "tunnel" "lan" ]': "fd88:2::1/128,10.88.2.1/32,192.0.2.2/32",
    }
    for own, addresses in expected.items():
        tree = build((1, 2)).with_file("nix/hosts/node2.nix", f"{{ kube.nodePorts = {own}; }}")
        unit = describe(tree)["node2"]["units"]["kube-proxy.service"]["text"]
        assert f"--nodeport-addresses={addresses} " in unit
    # The inventory's is for all nodes; a machine's own replaces it.
    tree = build((1, 2), network={"node_ports": ["tunnel", "lan"]})
    units = describe(tree.with_file("nix/hosts/node1.nix", '{ kube.nodePorts = [ "lan" ]; }'))
    found = [units[name]["units"]["kube-proxy.service"]["text"] for name in ("node1", "node2")]
    assert "--nodeport-addresses=192.0.2.1/32 " in found[0]
    assert "--nodeport-addresses=fd88:2::1/128,10.88.2.1/32,192.0.2.2/32 " in found[1]
    # Without a range kube-proxy takes every address.
    tree = build((1, 2)).with_file("nix/hosts/node2.nix", "{ kube.nodePorts = [ ]; }")
    assert any("kube.nodePorts is empty" in message for message in describe(tree)["node2"]["failedAssertions"])


def test_node_names_come_first_for_each_address(cluster: Cluster) -> None:
    for description in cluster.values():
        hosts = {line.split()[0]: line.split()[1:] for line in description["hosts"].splitlines()}
        for n in map(index, cluster):
            assert hosts[f"10.88.{n}.1"] == [f"node{n}.k8s.internal"]
            assert hosts[f"fd88:{n}::1"] == [f"node{n}.k8s.internal", *(["api.k8s.internal"] if n == 1 else [])]


def corefile(description: Description) -> str:
    (text,) = [str(text) for path, text in description["files"].items() if path.endswith("-Corefile")]
    return text


def test_pods_reach_the_issuer_through_the_tunnel(build: Build, describe: Describe) -> None:
    tree = build((1, 2), api={"external_host": "kube.example.org"})
    for description in describe(tree).values():
        (hosts,) = [text for path, text in description["files"].items() if path.endswith("-kube-pod-hosts")]
        found = {line.split()[0] for line in hosts.splitlines() if line.endswith(" kube.example.org")}
        assert found == {"fd88:1::1", "10.88.1.1"}
        assert re.search(r"hosts \S+-kube-pod-hosts k8s\.internal kube\.example\.org \{", corefile(description))
        # The machines' own resolution is as it was.
        assert "kube.example.org" not in description["hosts"]
    own = "{ kube.podHosts = { }; }"
    description = describe(tree.with_file("nix/hosts/node2.nix", own))["node2"]
    assert "kube.example.org" not in corefile(description)


def test_coredns_answers_for_the_cluster_only(cluster: Cluster) -> None:
    for name, description in cluster.items():
        text = corefile(description)
        assert f"bind 10.88.{index(name)}.1 fd88:{index(name)}::1\n" in text
        kubernetes = text.split("kubernetes ", 1)[1].split("}\n", 1)[0]
        assert "fallthrough" not in kubernetes
        assert "ttl 30" in kubernetes
        # Else a Service would stay unknown for as long after CoreDNS has heard of it.
        assert re.search(r"cache 30 \{\s+disable success k8s\.internal\s+disable denial k8s\.internal\s+\}", text)
        assert re.search(r"forward \. 127\.0\.0\.53 \{\s+max_concurrent 1000", text)
        for kind in ("A", "AAAA"):
            assert re.search(rf"template IN {kind} \. {{\s+match \S+\s+rcode NXDOMAIN\s+fallthrough", text)
        delegate = description["etc"]["systemd/dns-delegate.d/kubernetes.dns-delegate"]["text"]
        assert delegate == f"[Delegate]\nDomains=k8s.internal\nDNS=fd88:{index(name)}::1\nDefaultRoute=no\n"


@pytest.mark.parametrize(
    ("own", "names"),
    [
        ("{ }", ["nixos"]),
        ('{ networking.hostName = ""; }', []),
        ('{ networking.hostName = "Web"; networking.domain = "example.org"; }', ["web", "web.example.org"]),
        ('{ networking.hostName = "node2"; networking.domain = "k8s.internal"; }', ["node2"]),
    ],
)
def test_pods_find_the_machine_by_its_own_names(own: str, names: list[str], build: Build, describe: Describe) -> None:
    description = describe(build((1, 2)).with_file("nix/hosts/node2.nix", own))["node2"]
    assert re.findall(r"rewrite stop name exact (\S+) node2\.k8s\.internal", corefile(description)) == names


def test_the_kubelet_has_its_addresses_and_authorization(cluster: Cluster) -> None:
    for name, description in cluster.items():
        own = index(name)
        (text,) = [text for path, text in description["files"].items() if path.endswith("-kubelet.json")]
        config = json.loads(text)
        assert (config["address"], config["clusterDNS"]) == (f"10.88.{own}.1", [f"10.88.{own}.1"])
        assert (config["clusterDomain"], config["healthzPort"], config["failSwapOn"]) == ("k8s.internal", 0, False)
        assert config["memorySwap"] == {"swapBehavior": "LimitedSwap"}
        assert config["authentication"]["anonymous"] == {"enabled": False}
        assert config["authorization"] == {"mode": "Webhook"}
        taint = [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]
        assert config.get("registerWithTaints", []) == (taint if own == 1 else [])
        flags = description["units"]["kubelet.service"]["text"]
        assert f"--node-ip=10.88.{own}.1,fd88:{own}::1 " in flags
        assert f"--node-labels=role={'primary' if own == 1 else 'worker'}" in flags
        assert f"--hostname-override=node{own}.k8s.internal" in flags


def test_ipv6_first_for_nodes_and_pods(build: Build, describe: Describe) -> None:
    description = describe(build((1, 2), network={"prefer": "ipv6"}))["node2"]
    (text,) = [text for path, text in description["files"].items() if path.endswith("-kubelet.json")]
    config = json.loads(text)
    assert (config["address"], config["clusterDNS"]) == ("fd88:2::1", ["fd88:2::1"])
    assert "--node-ip=fd88:2::1,10.88.2.1 " in description["units"]["kubelet.service"]["text"]
    (plugin,) = json.loads(description["etc"]["cni/net.d/10-crio-bridge.conflist"]["text"])["plugins"]
    assert plugin["ipam"]["ranges"] == [[{"subnet": "fd88:2::/32"}], [{"subnet": "10.88.2.0/24"}]]


def test_cni_gives_pods_an_address_of_each_family(cluster: Cluster) -> None:
    for name, description in cluster.items():
        file = description["etc"]["cni/net.d/10-crio-bridge.conflist"]
        config = json.loads(file["text"])
        assert (config["cniVersion"], config["name"]) == ("1.0.0", "brkube")
        (plugin,) = config["plugins"]
        assert (plugin["bridge"], plugin["isGateway"], plugin["hairpinMode"], plugin["mtu"]) == (
            "brkube",
            True,
            True,
            1420,
        )
        assert plugin["ipam"]["ranges"] == [
            [{"subnet": f"10.88.{index(name)}.0/24"}],
            [{"subnet": f"fd88:{index(name)}::/32"}],
        ]
        assert plugin["ipam"]["routes"] == [{"dst": "::/0"}, {"dst": "0.0.0.0/0"}]


def test_a_node_has_exactly_its_own_secrets(cluster: Cluster) -> None:
    for name, description in cluster.items():
        own = {"wgkube.key", *(f"{word}_{name}.key" for word in ("kubelet", "node", "coredns", "kube-proxy"))}
        primary = {
            "EncryptionConfiguration.yaml",
            "apiserver.key",
            "front-proxy-client.key",
            "issuer.key",
            "kubelet-client.key",
            "kube_token_root",
            "kube_token_system_kube-controller-manager",
            "kube_token_system_kube-scheduler",
        }
        assert set(description["secrets"]) == (own | primary if name == "node1" else own)
        for secret, entry in description["secrets"].items():
            assert entry["path"] == f"/run/agenix/{secret}"
            expected = ("0440", "0", "systemd-network") if secret == "wgkube.key" else ("0400", "0", "0")
            assert (entry["mode"], entry["owner"], entry["group"]) == expected
        assert "/etc/ssh/ssh_host_ed25519_key" in description["identityPaths"]


def test_only_the_primary_has_the_control_plane(cluster: Cluster) -> None:
    everywhere = {
        "coredns.service",
        "crio.service",
        "kube-proxy.service",
        "kubelet.service",
        "nftables.service",
        "systemd-logind.service",
        "systemd-networkd.service",
        "systemd-resolved.service",
        "wgkube-handshakes.service",
    }
    primary = {
        "etcd.service",
        "generate-kubeconfig-root.service",
        "kube-activation.service",
        "kube-apiserver.service",
        "kube-controller-manager.service",
        "kube-identities.service",
        "kube-node-roles.service",
        "kube-node-roles.timer",
        "kube-scheduler.service",
    }
    for name, description in cluster.items():
        assert set(description["units"]) == (everywhere | primary if name == "node1" else everywhere)
        assert set(description["users"]) == ({"etcd", "kube-apiserver"} if name == "node1" else set())
        assert set(description["groups"]) == ({"etcd"} if name == "node1" else set())
        programs = {path.rsplit("/", 1)[1] for path in description["packages"]}
        assert {"dig", "wireguard-tools", "iproute2"} <= programs
        assert ({"etcd", "kubernetes"} <= programs) == (name == "node1")


def test_kernel_settings_that_pods_need(two: Cluster) -> None:
    for description in two.values():
        assert description["kernelModules"] == ["br_netfilter"]
        assert description["sysctl"] == {
            "net.bridge.bridge-nf-call-iptables": "1",
            "net.bridge.bridge-nf-call-ip6tables": "1",
            "net.ipv4.conf.all.forwarding": "1",
            "net.ipv6.conf.all.forwarding": "1",
            "net.ipv6.conf.default.use_tempaddr": "0",
        }


def test_peers_with_ipv6_addresses(build: Build, describe: Describe) -> None:
    description = describe(build((1, 2), addresses="2001:db8::{}"))["node1"]
    (peer,) = named(description, "11-wgkube.netdev", "WireGuardPeer")
    assert peer.last("Endpoint") == "[2001:db8::2]:51820"
    assert "ip6 saddr 2001:db8::2 udp dport 51820 accept" in _single_sources(chain(description, "input-allow"))


def test_the_inventory_reaches_tunnel_and_firewall(build: Build, describe: Describe) -> None:
    network = {
        "prefix6": "fd99",
        "prefix4": "10.99",
        "open_to_pods": [9100],
        "private": ["192.0.2.0/24", "2001:db8::/64"],
        "mtu": 1380,
        "wireguard_port": 51999,
        "persistent_keepalive": 25,
    }
    api = {"port": 7443, "allow_from": ["198.51.100.0/24"], "external_host": "kube.example.org"}
    description = describe(build((1, 2), network=network, api=api))["node1"]
    (peer,) = named(description, "11-wgkube.netdev", "WireGuardPeer")
    assert peer.keys["AllowedIPs"] == ["fd99:2::/32", "10.99.2.0/24"]
    assert (peer.last("Endpoint"), peer.last("PersistentKeepalive")) == ("192.0.2.2:51999", "25")
    for file in ("10-brkube.netdev", "11-wgkube.netdev"):
        assert named(description, file, "NetDev")[0].last("MTUBytes") == "1380"
    rules = _single_sources(chain(description, "input-allow"))
    assert {
        "ip saddr 192.0.2.0/24 udp dport 51999 accept",
        "ip6 saddr 2001:db8::/64 udp dport 51999 accept",
        "ip saddr 198.51.100.0/24 tcp dport 7443 accept",
        'iifname { "brkube", "wgkube" } meta l4proto { tcp, udp } th dport { 9100 } accept',
    } <= set(rules)
    assert (
        "--service-account-issuer=https://kube.example.org:7443"
        in description["units"]["kube-apiserver.service"]["text"]
    )


def test_the_api_server_accepts_previous_issuers_too(build: Build, describe: Describe) -> None:
    names = ["https://new.example.com:6443", "https://old.example.com:6443", "https://old.example.com:7443"]
    api = {"external_host": "new.example.com", "previous_issuers": [names[1], names[0], names[2]]}
    text = describe(build((1, 2), api=api))["node1"]["units"]["kube-apiserver.service"]["text"]
    assert re.findall(r"--service-account-issuer=(\S+)", text) == names
    assert re.findall(r"--api-audiences=(\S+)", text) == [",".join(["api", *names])]


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ('kube.hostIp6 = "fd88:9::1"', "kube.hostIp6' is read-only"),
        ('kube.role = "primary"', "kube.role' is read-only"),
        ('kube.api.internalUrl = "https://x"', "kube.api.internalUrl' is read-only"),
        ("kube.peers = [ ]", "kube.peers' is read-only"),
        ('kube.api.allowFrom = [ "kube.example.org" ]', 'kube.api.allowFrom."[definition 1-entry 1]"\' is not of type'),
        ('kube.privateRanges = [ "192.0.2.0/24/8" ]', 'kube.privateRanges."[definition 1-entry 1]"\' is not of type'),
        ('kube.prefix6 = lib.mkForce "2001"', "kube.prefix6' is not of type"),
        ('kube.kubernetesMinor = lib.mkForce "1.34.2"', "kube.kubernetesMinor' is not of type"),
    ],
)
def test_a_host_cannot_set_derived_or_malformed_values(
    setting: str, complaint: str, build: Build, describe: Describe
) -> None:
    tree = build((1, 2)).with_file("nix/hosts/node1.nix", f"{{ lib, ... }}: {{ {setting}; }}")
    with pytest.raises(SmallkubeError, match=re.escape(complaint)):
        describe(tree)
