"""Who reaches what: two nodes with the rules of their descriptions, in network namespaces.

What `measure` asks is run by this file itself as a program, in namespaces of its own that end with it: a LAN (a
bridge), the nodes on it with brkube, and a pod behind each. wgkube is a veth pair without ARP whose ends have one link
address, so that it needs routes only, as WireGuard does.
"""

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from lab.checks.evaluate import Description
from lab.checks.systemd_text import sections
from smallkube.core import process
from smallkube.core.workspace import REPOSITORY

Probe = tuple[str, str, str, int]
"""Namespace, protocol (tcp, udp, or forged: TCP with the DSCP that means "translated by a Service"), address, port."""

MODULE = "tests.integration.nix.reach"
SECONDS = 3
APART = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
LAN = {"node1": 1, "node2": 2, "lan1": 71, "lan2": 72}
"""Namespace → last number of its addresses on the LAN; lanN sends the cluster's prefixes through nodeN."""
ALLOWED = {"admin1": 1, "admin2": 2}
"""The same with addresses in ALLOWED_FROM."""
ALLOWED_FROM = "198.51.100.0/24"
WORLD, METADATA, LINK_LOCAL = "203.0.113.9", "169.254.169.254", "fe80::77"
"""Addresses of one more machine on the LAN, the namespace "world"."""
HOST_PORTS = (22, 6443, 9100, 9200, 9300, 10250)
"""ssh, API, hostNetwork pod, open_to_pods, anything else, kubelet."""
POD_PORT = 8080
API, PODS, HOST1, HOST2, LEAK = (f"10.88.0.{number}" for number in (1, 10, 11, 12, 13))
"""Cluster IPs: of the API, and of Services of the pod on node2, of the hostNetwork pod on each node, of METADATA."""
NODE_PORT, HOST_NODE_PORT = 30080, 30081
"""NodePorts of PODS and of HOST1."""


def measure(nodes: Mapping[str, Description], probes: Sequence[Probe]) -> list[bool]:
    """Whether each probe got an answer. Needs root, ip, nft and unshare."""
    used = ("nftables", "networkd", "sysctl", "units")
    asked = {"nodes": {name: {key: nodes[name][key] for key in used} for name in nodes}, "probes": probes}
    with subprocess.Popen(
        [*APART, sys.executable, "-m", MODULE, "measure"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
    ) as running:  # fmt: skip
        answer, _ = running.communicate(json.dumps(asked), timeout=process.DEFAULT_TIMEOUT)
    assert running.returncode == 0
    found: list[bool] = json.loads(answer)
    return found


def _kube_proxy(unit: str) -> str:
    """What kube-proxy makes of the Services (pkg/proxy/nftables/proxier.go, 1.34), as far as packets notice."""
    ranges = re.search(r"--nodeport-addresses=(\S+)", unit)
    assert ranges is not None
    node = f"ip daddr {{ {', '.join(cidr for cidr in ranges[1].split(',') if ':' not in cidr)} }}"
    translated = (
        (f"ip daddr {API} tcp dport 443", "10.88.1.1:6443"),
        (f"ip daddr {PODS} tcp dport 80", f"10.88.2.5:{POD_PORT}"),
        (f"ip daddr {HOST1} tcp dport 80", "10.88.1.1:9100"),
        (f"ip daddr {HOST2} tcp dport 80", "10.88.2.1:9100"),
        (f"ip daddr {LEAK} tcp dport 80", f"{METADATA}:80"),
        (f"{node} tcp dport {NODE_PORT}", f"10.88.2.5:{POD_PORT}"),
        (f"{node} tcp dport {HOST_NODE_PORT}", "10.88.1.1:9100"),
    )
    rules = [
        rule
        for match, endpoint in translated
        for rule in (
            f'{match} iifname != "brkube" mark set mark or 0x4000',
            f"{match} ip saddr {endpoint.partition(':')[0]} mark set mark or 0x4000",
            f"{match} dnat to {endpoint}",
        )
    ]
    return f"""table ip kube-proxy {{
      chain services {{ {"; ".join(rules)}; }}
      chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
      chain nat-output {{ type nat hook output priority -100; jump services; }}
      chain nat-postrouting {{
        type nat hook postrouting priority srcnat
        mark and 0x4000 == 0 return
        masquerade fully-random
      }}
    }}"""


def _run(*words: str, text: str | None = None) -> None:
    subprocess.run(words, check=True, input=text, text=True)


def _inside(name: str, *words: str) -> list[str]:
    return ["ip", "netns", "exec", name, *words]


def _ip(name: str, *lines: str) -> None:
    _run("ip", "-netns", name, "-batch", "-", text="\n".join(lines))


def _build(nodes: Mapping[str, Description]) -> None:
    _run("mount", "-t", "tmpfs", "tmpfs", "/run")
    _run("ip", "link", "add", "lan", "type", "bridge")
    _run("ip", "link", "set", "lan", "up")
    for name in (*LAN, *ALLOWED, "world", "pod1", "pod2"):
        _run("ip", "netns", "add", name)
        _run(*_inside(name, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0"))
        _ip(name, "link set lo up")
    for name, number in (LAN | ALLOWED | {"world": 80}).items():
        _run("ip", "link", "add", f"lan-{name}", "type", "veth", "peer", "name", "lan0", "netns", name)
        _run("ip", "link", "set", f"lan-{name}", "master", "lan", "up")
        address = f"198.51.100.{number}/24" if name in ALLOWED else f"192.0.2.{number}/24"
        number6 = number + 80 if name in ALLOWED else number
        _ip(name, "link set lan0 up", f"addr add {address} dev lan0", f"addr add 2001:db8::{number6}/64 dev lan0 nodad")
        if name[:-1] in ("lan", "admin"):
            via, via6 = f"192.0.2.{name[-1]}", f"2001:db8::{name[-1]}"
            _ip(name, f"route replace {via} dev lan0", f"route add default via {via}", f"route add default via {via6}")
    _ip("world", f"addr add {WORLD}/32 dev lan0", f"addr add {METADATA}/32 dev lan0", "route add default dev lan0")
    _ip("world", f"addr add {LINK_LOCAL}/64 dev lan0 nodad")
    for name, node in nodes.items():
        _node(name, node)


def _node(name: str, node: Description) -> None:
    _ip(name, "link add brkube type bridge", "link set brkube addrgenmode none up", "route add default dev lan0")
    if name == "node1":
        _run("ip", "-netns", name, "link", "add", "wgkube", "type", "veth", "peer", "name", "wgkube", "netns", "node2")
    _ip(name, "link set wgkube address 02:00:00:00:00:01 arp off addrgenmode none up")
    for interface, file in (("brkube", "10-brkube.network"), ("wgkube", "11-wgkube.network")):
        for part in sections(node["networkd"][file]):
            if part.name == "Address":
                address = part.last("Address")
                _ip(name, f"addr add {address} dev {interface}{' nodad' if ':' in address else ''}")
            if part.name == "Route":
                _ip(name, f"route add {part.last('Destination')} dev {interface} src {part.last('PreferredSource')}")
    _run(*_inside(name, "sysctl", "-qw", *(f"{key}={value}" for key, value in node["sysctl"].items())))
    number, pod = name[-1], f"pod{name[-1]}"
    _run("ip", "-netns", name, "link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", pod)
    _ip(name, "link set veth0 master brkube up", "link set veth0 type bridge_slave hairpin on")
    _ip(
        pod,
        "link set eth0 up",
        f"addr add 10.88.{number}.5/24 dev eth0",
        f"addr add fd88:{number}::5/32 dev eth0 nodad",
    )
    _ip(pod, f"route add default via 10.88.{number}.1", f"route add default via fd88:{number}::1")
    _run(
        *_inside(name, "nft", "-f", "-"),
        text=node["nftables"] + _kube_proxy(node["units"]["kube-proxy.service"]["text"]),
    )


async def _measure() -> None:
    asked = json.load(sys.stdin)
    _build(asked["nodes"])
    listening: dict[str, tuple[int | str, ...]] = dict.fromkeys(asked["nodes"], (*HOST_PORTS, "53", "51820"))
    listening |= {"pod1": (POD_PORT,), "pod2": (POD_PORT,), "world": (80,)}
    for name, ports in listening.items():
        words = _inside(name, sys.executable, "-m", MODULE, "serve", json.dumps(ports))
        server = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    found: dict[int, bool] = {}
    numbered = list(enumerate(asked["probes"]))
    running = {}
    for name in {probe[0] for _, probe in numbered}:
        own = [(number, probe[1:]) for number, probe in numbered if probe[0] == name]
        words = _inside(name, sys.executable, "-m", MODULE, "probe", json.dumps(own))
        running[name] = subprocess.Popen(words, stdout=subprocess.PIPE)
    for client in running.values():
        found |= dict(json.loads(client.communicate()[0]))
    json.dump([found[number] for number, _ in numbered], sys.stdout)


def _answer(echo: socket.socket) -> None:
    echo.sendto(*echo.recvfrom(1))


async def _serve(ports: Sequence[int | str]) -> None:
    """TCP on numbers, UDP on texts."""
    loop = asyncio.get_running_loop()
    for host in ("0.0.0.0", "::"):
        for port in ports:
            if isinstance(port, int):
                await asyncio.start_server(lambda _, writer: writer.close(), host, port)
            else:
                echo = socket.socket(socket.AF_INET6 if host == "::" else socket.AF_INET, socket.SOCK_DGRAM)
                if host == "::":
                    echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                echo.bind((host, int(port)))
                loop.add_reader(echo, _answer, echo)
    print("ready", flush=True)  # noqa: T201
    await asyncio.Event().wait()


async def _probe(probes: Sequence[tuple[int, tuple[str, str, int]]]) -> None:
    answers = await asyncio.gather(*(_answered(*probe) for _, probe in probes))
    json.dump([(number, answer) for (number, _), answer in zip(probes, answers, strict=True)], sys.stdout)


async def _answered(protocol: str, address: str, port: int) -> bool:
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    family, _, _, _, where = socket.getaddrinfo(address, port, type=kind)[0]
    with socket.socket(family, kind) as client, contextlib.suppress(OSError, TimeoutError):
        client.setblocking(False)
        if protocol == "forged" and family == socket.AF_INET6:
            client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 43 << 2)
        elif protocol == "forged":
            client.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 43 << 2)
        async with asyncio.timeout(SECONDS):
            await loop.sock_connect(client, where)
            if kind == socket.SOCK_DGRAM:
                await loop.sock_sendall(client, b"?")
                return await loop.sock_recv(client, 1) == b"?"
            return True
    return False


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["measure"]:
            asyncio.run(_measure())
        case ["serve", ports]:
            asyncio.run(_serve(json.loads(ports)))
        case ["probe", probes]:
            asyncio.run(_probe(json.loads(probes)))
