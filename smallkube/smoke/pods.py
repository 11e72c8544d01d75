"""The pods of a run: started, asked for logs, and made to try things; the machines try theirs, too."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from smallkube.core.errors import SmallkubeError, listed, split_lines
from smallkube.etcd import status
from smallkube.etcd.status import ENCRYPTION_CONFIGURATION, ENDPOINT
from smallkube.inventory.models import Node
from smallkube.smoke import probes
from smallkube.smoke.context import (
    LABEL,
    SCRIPTS,
    UNKNOWN_KUBELET,
    Answers,
    Failed,
    NotReached,
    Pod,
    Skipped,
    SmokeContext,
    fail_if,
    in_parallel,
)

HOST = "probe-host"
"""What the DaemonSet of pods with hostNetwork is called, and how their Services begin."""
_TRY_SECONDS = 8
"""What was just made takes a moment to be known everywhere."""
_PROBE_SECONDS = 90
_SERVICES_SECONDS = 30
_GONE_SECONDS = 60
"""For the pods and their namespace."""
_NO_IMAGE = (
    *("InvalidImageName", "ErrImageNeverPull", "ErrImagePull", "ImagePullBackOff"),
    *("RegistryUnavailable", "SignatureValidationFailed"),
)
"""Reasons for which a container waits that gets no image (kubernetes/pkg/kubelet/images, cri-api/pkg/errors).

A failed pull is tried again, but after ever longer pauses: a registry out of reach would cost the whole --rollout.
"""
T = TypeVar("T")


@dataclass(frozen=True)
class Waiting:
    """Why a pod does not run; ``reason`` is the kubelet's for a container that waits, "" without one."""

    reason: str
    message: str

    @property
    def final(self) -> bool:
        """Whether there is no point in waiting on."""
        return self.reason in _NO_IMAGE

    def __str__(self) -> str:
        return f"{self.reason} {self.message}".strip()


def prepare(context: SmokeContext) -> str:
    """Start a pod on every node. Raises Failed when some do not start; those that do are in ``context.pods`` anyway."""
    context.begun = True
    # What earlier runs left goes meanwhile.
    context.kubectl("delete", "namespace", f"--selector={LABEL}", "--wait=false")
    # Ctrl-C waits for the answer: a request still under way could make the namespace after it was removed.
    with ThreadPoolExecutor(1) as request:
        request.submit(context.apply, context.manifest("namespace")).result()
    context.made = True
    options = context.options
    image = {"image": options.image, "pull_policy": options.pull_policy}
    context.apply(
        context.manifest("pods", name="probe", host_network=False, port=str(probes.PORT), **image),
        context.manifest("pods", name=HOST, host_network=True, port=str(context.host_port), **image),
    )
    waiting: dict[str, Waiting] = {}

    def starting() -> list[str]:
        waiting.clear()
        waiting.update(_update_pods(context, context.items("pods", "-n", context.namespace)))
        return [node for node, why in waiting.items() if not why.final]

    context.wait(starting, options.rollout + context.reconnecting, 0.5)
    if context.pods:
        _create_services(context)
    if not context.members:
        raise Failed("the cluster has no node of the inventory")
    if waiting:
        raise Failed(explanation(waiting, options.image, context.namespace))
    return f"{len(context.pods)} pods"


def explanation(waiting: Mapping[str, Waiting], image: str, namespace: str) -> str:
    """Why the pods of these nodes do not run: for those without an image one message for each reason."""
    parts = []
    for reason in dict.fromkeys(why.reason for why in waiting.values() if why.final):
        nodes = [node for node, why in waiting.items() if why.reason == reason]
        parts.append(f"no image {image} on {listed(nodes)}: {reason}: {waiting[nodes[0]].message}")
    if parts:
        parts.append("name one that the nodes can get: cluster.smoke.image in inventory.yaml, or --image")
    if others := [f"{node}: {why}" for node, why in waiting.items() if not why.final]:
        parts += [listed(others), f"kubectl describe pods -n {namespace} (--keep leaves them)"]
    return "; ".join(parts)


def _update_pods(context: SmokeContext, items: list[dict[str, Any]]) -> dict[str, Waiting]:
    """Note the pods that run; which nodes lack one, and why."""
    short = {context.host(node): node.name for node in context.members}
    none = Waiting("", "no pod was made for it (kube-controller-manager)")
    context.pods, context.host_pods = [], []
    waiting = {False: dict.fromkeys(short.values(), none), True: dict.fromkeys(short.values(), none)}
    for item in items:
        node, on_host = short.get(_meant_for(item)), bool(item["spec"].get("hostNetwork"))
        if node is None:
            continue
        running, reasons = context.host_pods if on_host else context.pods, waiting[on_host]
        conditions = {row["type"]: row["status"] for row in item["status"].get("conditions", ())}
        if conditions.get("Ready") == "True":
            addresses = [row["ip"] for row in item["status"].get("podIPs", ())]
            ip6, ip4 = (next((address for address in addresses if mark in address), "") for mark in ":.")
            running.append(Pod(item["metadata"]["name"], node, ip6, ip4))
            reasons.pop(node, None)
        else:
            reasons[node] = diagnosis(item)
    return waiting[True] | waiting[False]


def _meant_for(item: dict[str, Any]) -> str:
    """The node of a DaemonSet's pod, which is bound to it by the scheduler, and meant for it by affinity before."""
    if name := item["spec"].get("nodeName"):
        return str(name)
    affinity = item["spec"].get("affinity", {}).get("nodeAffinity", {})
    for term in affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", ()):
        for field in term.get("matchFields", ()):
            return str(field["values"][0])
    return ""


def diagnosis(item: dict[str, Any]) -> Waiting:
    """Why a pod does not run, by what the API has of it."""
    if not item["spec"].get("nodeName"):
        return Waiting("", "not scheduled (kube-scheduler)")
    for state in item["status"].get("containerStatuses", ()):
        waiting = state.get("state", {}).get("waiting")
        if waiting:
            return Waiting(waiting.get("reason", "waiting"), " ".join(waiting.get("message", "").split())[:400])
    phase = str(item["status"].get("phase", "unknown"))
    return Waiting("", f"{phase}, its kubelet reports nothing" if phase == "Pending" else phase)


def services(context: SmokeContext) -> Iterator[str]:
    """One of all pods with a cluster IP, one with a NodePort, and one for each pod alone, with its label."""
    everywhere = {"app": "probe"}
    yield context.manifest("service", name="probe", type="ClusterIP", selector=everywhere, port=probes.PORT)
    yield context.manifest("service", name="probe-port", type="NodePort", selector=everywhere, port=probes.PORT)
    for app, pods, port in (("probe", context.pods, probes.PORT), (HOST, context.host_pods, context.host_port)):
        for pod in pods:
            alone = {"app": app, "smoke-node": pod.node}
            name = f"{app}-{pod.node}"
            yield context.manifest("label", name=pod.name, node=pod.node)
            yield context.manifest("service", name=name, type="ClusterIP", selector=alone, port=port)


def _create_services(context: SmokeContext) -> None:
    """Services in front of the pods that run."""

    def missing() -> list[str]:
        slices = context.items("endpointslices", "-n", context.namespace)
        endpoints = sum(len(each.get("endpoints") or ()) for each in slices)
        wanted = (3 * len(context.pods) + len(context.host_pods)) * len(ranges)
        return [] if endpoints >= wanted else ["endpoints"]

    ranges = context.inventory.addressing.services
    context.apply(*services(context))
    context.wait(missing, _SERVICES_SECONDS + context.reconnecting, 0.3)
    for item in context.items("services", "-n", context.namespace):
        name, addresses = item["metadata"]["name"], item["spec"]["clusterIPs"]
        context.services[name] = tuple(addresses)
        if len(addresses) != len(ranges):
            raise Failed(f"Service {name} has {listed(addresses)}, not an address of each of {listed(ranges)}")
        if name == "probe-port":
            context.node_port = item["spec"]["ports"][0]["nodePort"]


def logs(context: SmokeContext) -> str:
    """The first check that needs a kubelet's own API, so that it waits until the API server knows the kubelet."""

    def ask(pod: Pod) -> str:
        words = ("logs", pod.name, "-n", context.namespace)
        if patience:
            context.wait(lambda: [UNKNOWN_KUBELET] * (UNKNOWN_KUBELET in context.ask(*words).stderr), patience, 2)
        return context.kubectl(*words)

    patience = context.rereading
    texts, faults = _ask_pods(context, ask)
    fail_if([*faults, *(f"{node}: other text" for node, text in texts.items() if text != "serving")])
    return ""


def execute(context: SmokeContext) -> str:
    """Let every pod try everything that later checks need: one exec for each."""

    def attempt(pod: Pod) -> Answers:
        wanted = list(probes.of_pod(context, pod))
        words = ("exec", "--stdin", pod.name, "-n", context.namespace, "--")
        argv, seconds = SCRIPTS.sent("probe", str(patience)).argv, _PROBE_SECONDS + patience
        done = context.ask(*words, *argv, stdin=probes.lines(wanted), seconds=seconds)
        if not done.ok:
            raise Failed(done.last_line)
        return probes.parse(wanted, done.text)

    patience = _TRY_SECONDS + int(context.reconnecting)
    context.answers, faults = _ask_pods(context, attempt)
    fail_if(faults)
    return ""


def _ask_pods(context: SmokeContext, ask: Callable[[Pod], T]) -> tuple[dict[str, T], list[str]]:
    """Each node's answer by its pod, and which gave none."""
    if not context.pods:
        raise NotReached("no pod runs")
    found, faults = in_parallel(context.pods, ask)
    return {pod.node: answer for pod, answer in found.items()}, [f"{pod.node}: {why}" for pod, why in faults.items()]


def from_machines(context: SmokeContext, check: str) -> str:
    """The result of one check by the machines' own tries; the first such check makes them try everything."""

    def attempt(node: Node) -> Answers:
        wanted = list(probes.of_machine(context, node))
        seconds = _PROBE_SECONDS + patience
        command = SCRIPTS.sent("probe", str(patience), stdin=probes.lines(wanted), timeout=seconds)
        return probes.parse(wanted, context.machine(node).run(replace(command, root=False)).text)

    if not context.results and not context.unreachable:
        patience = _TRY_SECONDS + int(context.reconnecting)
        found, faults = in_parallel(context.members, attempt)
        context.results = {node.name: answers for node, answers in found.items()}
        context.unreachable = {node.name: why for node, why in faults.items()}
    return probes.by_machines(context, check)


def encrypted(context: SmokeContext) -> str:
    if not context.made:
        raise NotReached("there is no namespace to put a Secret into")
    context.apply(context.manifest("secret"))
    key = f"/registry/secrets/{context.namespace}/probe"
    command = status.SCRIPTS.sent("encrypted", ENDPOINT, key, ENCRYPTION_CONFIGURATION)
    found, first = (*split_lines(context.primary.run_checked(command).text), "", "")[:2]
    if found != f"k8s:enc:secretbox:v1:{first}":
        raise Failed(f"it begins with {found}, not k8s:enc:secretbox:v1:{first}")
    return f"with {first}"


def clean(context: SmokeContext) -> str:
    """Remove the namespace, unless it is to be kept; over a new connection when the old one is lost."""
    if not context.begun:
        raise Skipped("nothing was made")
    if context.options.keep:
        raise Skipped(f"kept: namespace {context.namespace}; the next run removes it")
    words = ("delete", "namespace", context.namespace, "--ignore-not-found", "--wait=false")
    try:
        context.kubectl(*words)
    except Failed:
        raise
    except SmallkubeError:
        context.reconnect()
        context.kubectl(*words)
    patience = _GONE_SECONDS * context.options.slowness
    wait = ("wait", "--for=delete", f"namespace/{context.namespace}", f"--timeout={patience}s")
    done = context.ask(*wait, seconds=_GONE_SECONDS + 5)
    if not done.ok and "not found" not in done.stderr.lower():
        raise Failed(f"namespace {context.namespace} is not gone after {patience} s: {done.last_line}")
    return ""


def evidence(context: SmokeContext) -> str:
    """What may explain a failure: the namespace's pods, events and last lines."""
    parts = []
    for words in (("get", "pods", "-o", "wide"), ("get", "events"), ("describe", "pods"), ("logs", "-l", "app=probe")):
        done = context.ask(*words, "-n", context.namespace)
        lines = (done.text or done.last_line).splitlines()
        parts.append(f"--- kubectl {' '.join(words)}\n" + "\n".join(lines[-60:]))
    return "\n".join(parts)
