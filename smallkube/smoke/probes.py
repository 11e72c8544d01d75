"""What pods and machines try, as data, and what the checks make of the answers. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from smallkube.core.errors import listed, split_lines
from smallkube.inventory.models import Node
from smallkube.smoke.context import Answers, Failed, NotReached, Pod, Probe, Skipped, SmokeContext

PORT = 8080
"""Where pods serve (manifests/pods.yaml)."""
_UNKNOWN = "smallkube-smoke-unknown"


def of_pod(context: SmokeContext, pod: Pod) -> Iterator[Probe]:
    """All that ``pod`` tries."""
    plan = context.inventory.addressing
    for other in context.pods:
        expected = context.host(context.inventory.node(other.node))
        for check, address in (("network.ipv6", other.ip6), ("network.ipv4", other.ip4)):
            if address and other.node != pod.node:
                yield Probe(check, other.node, ("http", f"http://{_host(address)}:{PORT}/", expected))
    if addresses := context.services.get("probe"):
        full = f"probe.{context.namespace}.svc.{plan.domain}"
        yield from (Probe("network.service", each, ("serves", f"http://{_host(each)}/")) for each in addresses)
        yield Probe("dns.services", full, ("name", full, *addresses))
        yield Probe("dns.services", "probe (by the search list)", ("known", "http://probe/"))
    own = context.host(context.inventory.node(pod.node))
    for address in context.services.get(f"probe-{pod.node}", ()):
        yield Probe("network.hairpin", address, ("http", f"http://{_host(address)}/", own))
    for node, address in _of_hosts(context):
        yield Probe("network.hostnetwork", node.name, ("http", f"http://{_host(address)}/", context.host(node)))
    yield Probe("network.api", plan.api_service_ip, ("api", f"https://{_host(plan.api_service_ip)}:443/version"))
    for node in context.members:
        name = context.host(node)
        yield Probe("dns.nodes", name, ("name", name, plan.host6(node.index), plan.host4(node.index)))
    if context.options.egress:
        name, _, port = context.options.egress.rpartition(":")
        yield Probe("egress.internet", context.options.egress, ("connect", name.strip("[]"), port))


def of_machine(context: SmokeContext, node: Node) -> Iterator[Probe]:
    """All that the machine of ``node`` tries by itself."""
    plan = context.inventory.addressing
    name = f"kubernetes.default.svc.{plan.domain}"
    yield Probe("dns.names", "an unknown name without a dot", ("unknown", plan.host6(node.index), _UNKNOWN))
    yield Probe("dns.names", "its own name", ("own", plan.host6(node.index)))
    for server in (plan.host4(node.index), plan.host6(node.index)):
        yield Probe("dns.servers", f"{name} at {server}", ("server", server, name, plan.api_service_ip))
    for address in context.services.get("probe", ()):
        yield Probe("network.host", address, ("fetch", f"http://{_host(address)}/"))
    for other, address in _of_hosts(context):
        yield Probe("network.host", f"hostNetwork pod of {other.name}", ("fetch", f"http://{_host(address)}/"))
    if context.node_port:
        wanted = context.inventory.cluster.network.node_ports
        for other in context.members:
            tunnel = [plan.host4(other.index), plan.host6(other.index)][: len(plan.services)]
            for address in (*tunnel * ("tunnel" in wanted), *[other.peer_ip] * ("lan" in wanted)):
                url = f"http://{_host(address)}:{context.node_port}/"
                yield Probe("network.nodeport", f"{other.name} ({address})", ("fetch", url))


def _of_hosts(context: SmokeContext) -> Iterator[tuple[Node, str]]:
    """Nodes, and the address of the Service whose only endpoint is the pod with hostNetwork there."""
    for pod in context.host_pods:
        for address in context.services.get(f"probe-host-{pod.node}", ()):
            yield context.inventory.node(pod.node), address


def _host(address: str) -> str:
    """As it is in a URL."""
    return f"[{address}]" if ":" in address else address


def lines(wanted: Sequence[Probe]) -> bytes:
    """What ``probe.sh`` reads."""
    return "".join(f"{number} {' '.join(probe.words)}\n" for number, probe in enumerate(wanted)).encode()


def parse(wanted: Sequence[Probe], text: str) -> Answers:
    """What ``probe.sh`` printed."""
    answers = dict(line.partition(" ")[::2] for line in split_lines(text))
    found = {probe: answers.get(str(number)) or "no answer" for number, probe in enumerate(wanted)}
    return {probe: "" if answer == "ok" else answer for probe, answer in found.items()}


def by_pods(context: SmokeContext, check: str) -> str:
    """The result of one check by the answers of the pods."""
    if check == "egress.internet" and not context.options.egress:
        raise Skipped("no --egress HOST:PORT given")
    if not context.answers:
        raise NotReached("no pod could be asked")
    family = {"network.ipv6": "ip6", "network.ipv4": "ip4"}.get(check)
    if family and (bare := [pod.node for pod in context.pods if not getattr(pod, family)]):
        raise Failed(f"no such address has the pod of {listed(bare)}; /etc/cni/net.d there (nix/modules/cri-o.nix)")
    silent = [pod.node for pod in context.pods if pod.node not in context.answers]
    unasked = f" (not asked: {listed(silent)})" if silent else ""
    tried = _count_tries(context.answers, check, unasked)
    if not tried and family and len(context.inventory.nodes) == 1:
        return "a single node: nothing to try"
    if not tried:
        raise NotReached("no other pod runs" if family else "there is no Service")
    return f"{tried} tries{unasked}"


def by_machines(context: SmokeContext, check: str) -> str:
    """The result of one check by the answers of the machines."""
    unasked = f"; not asked: {listed(context.unreachable)}" if context.unreachable else ""
    tried = _count_tries(context.results, check, unasked)
    if context.unreachable:
        raise NotReached(listed(f"{node}: {why}" for node, why in context.unreachable.items()))
    if not tried:
        raise NotReached("there is no Service")
    return f"{tried} tries"


def _count_tries(answers: Mapping[str, Answers], check: str, unasked: str) -> int:
    """How many tries there were; raises Failed when one did not work."""
    tries = [(node, probe, fault) for node, found in answers.items() for probe, fault in found.items()]
    made = [(f"{node} → {probe.target}", fault) for node, probe, fault in tries if probe.check == check]
    if wrong := [f"{target}: {fault}" for target, fault in made if fault]:
        raise Failed(f"{listed(wrong)}{unasked}")
    return len(made)
