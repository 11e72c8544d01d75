"""What each pod tries, as data, and what the checks make of the answers."""

from collections.abc import Iterable
from dataclasses import dataclass

from smallkube.errors import SmallkubeError
from smallkube.inventory import Node
from smallkube.remote.command import Command
from smallkube.smoke.objects import PORT
from smallkube.smoke.scene import Failed, NotReached, Pod, Scene, listed, parallel


@dataclass(frozen=True)
class Probe:
    """``words`` are a line of ``probe.sh``; ``check`` is what it is tried for, ``target`` what is tried."""

    check: str
    target: str
    words: tuple[str, ...]


def probes(scene: Scene, pod: Pod) -> list[Probe]:
    """All that ``pod`` tries."""
    plan = scene.inventory.addressing
    found = []
    for other in scene.pods:
        if other.node == pod.node:
            continue
        expected = plan.node_host(scene.inventory.node(other.node).index)
        if other.ip6:
            found.append(Probe("network.ipv6", other.node, ("http", f"http://[{other.ip6}]:{PORT}/", expected)))
        if other.ip4:
            found.append(Probe("network.ipv4", other.node, ("http", f"http://{other.ip4}:{PORT}/", expected)))
    own = plan.node_host(scene.inventory.node(pod.node).index)
    if address := scene.services.get("probe"):
        full = f"probe.{scene.namespace}.svc.{plan.domain}"
        found.append(Probe("network.service", address, ("serves", f"http://{address}/")))
        found.append(Probe("dns.services", full, ("name", full, address)))
        found.append(Probe("dns.services", "the search list", ("search", f"svc.{plan.domain}")))
    if address := scene.services.get(f"probe-{pod.node}"):
        found.append(Probe("network.hairpin", address, ("http", f"http://{address}/", own)))
    found.append(Probe("network.api", plan.api_service_ip, ("api", f"https://{plan.api_service_ip}:443/version")))
    for node in scene.inventory.nodes:
        name = plan.node_host(node.index)
        found.append(Probe("dns.nodes", name, ("name", name, plan.host6(node.index))))
    if scene.options.egress:
        name, _, port = scene.options.egress.rpartition(":")
        found.append(Probe("egress.internet", scene.options.egress, ("connect", name.strip("[]"), port)))
    return found


def parse(wanted: list[Probe], text: str) -> dict[str, str]:
    """Check and target → "" when it worked, else what was said."""
    answers = dict(line.partition(" ")[::2] for line in text.splitlines())
    said = {}
    for number, probe in enumerate(wanted):
        answer = answers.get(str(number), "no answer")
        said[f"{probe.check} {probe.target}"] = "" if answer == "ok" else answer or "no answer"
    return said


HINTS = {
    "network.ipv6": "inv net.check shows the tunnel",
    "network.ipv4": "inv net.check shows the tunnel",
    "network.service": "systemctl status kube-proxy there",
    "network.hairpin": "kube-proxy there, and hairpinMode of the CNI configuration",
    "network.api": "kube-proxy there, and the way to the primary's API port",
    "dns.services": "systemctl status coredns there, and its rights (nix/addons/coredns.yaml)",
    "dns.nodes": "systemctl status coredns there",
    "egress.internet": "masquerading (nft list table ip6 kube-nat) and the machine's own way out",
}


def answered(scene: Scene, check: str) -> str:
    """Judge one check by what the pods found."""
    if not scene.answers:
        raise NotReached("no pod could be asked")
    wrong, tried = [], 0
    for node, answers in scene.answers.items():
        for key, fault in answers.items():
            name, _, target = key.partition(" ")
            if name == check:
                tried += 1
                if fault:
                    wrong.append(f"{node} → {target}: {fault}")
    silent = [pod.node for pod in scene.pods if pod.node not in scene.answers]
    unasked = f" (not asked: {listed(silent)})" if silent else ""
    if wrong:
        raise Failed(f"{listed(wrong)}; {HINTS[check]}{unasked}")
    return f"{tried} tries{unasked}" if tried else f"a single pod runs: nothing to try{unasked}"


def from_machines(scene: Scene, check: str) -> str:
    """Judge what is tried from the machines themselves."""
    tries = {"network.host": _cluster_ip, "network.nodeport": _node_ports, "dns.servers": _own_server}[check]
    if check.startswith("network.") and not scene.services:
        raise NotReached("no pod runs")
    wrong = []
    for node, found in parallel(scene.inventory.nodes, lambda node: list(tries(scene, node))):
        if isinstance(found, SmallkubeError):
            wrong.append(f"{node.name}: {found.message}")
        else:
            wrong += [f"{node.name} → {text}" for text in found]
    if wrong:
        hint = {"dns.servers": "systemctl status coredns there"}.get(check, "systemctl status kube-proxy there")
        raise Failed(f"{listed(wrong)}; {hint}")
    return ""


def _cluster_ip(scene: Scene, node: Node) -> Iterable[str]:
    address = scene.services["probe"]
    yield from _fetch(scene, node, address, f"http://{address}/")


def _node_ports(scene: Scene, node: Node) -> Iterable[str]:
    for other in scene.inventory.nodes:
        address = scene.inventory.addressing.host4(other.index)
        yield from _fetch(scene, node, other.name, f"http://{address}:{scene.node_port}/")


def _fetch(scene: Scene, node: Node, target: str, url: str) -> Iterable[str]:
    argv = ("curl", "--silent", "--show-error", "--max-time", "5", "--output", "/dev/null", url)
    done = scene.machine(node).run(Command(argv, root=False, timeout=20))
    if not done.ok:
        yield f"{target}: {done.last_words}"


def _own_server(scene: Scene, node: Node) -> Iterable[str]:
    plan = scene.inventory.addressing
    name, server = f"kubernetes.default.svc.{plan.domain}", plan.host6(node.index)
    argv = ("dig", "+short", "+time=2", "+tries=2", f"@{server}", name, "A")
    done = scene.machine(node).run(Command(argv, root=False, timeout=20))
    if done.text.strip() != plan.api_service_ip:
        yield f"{name}: {done.text.strip() or done.last_words}"
