"""The pods of a run: started, asked for logs, and made to try things; the machines try theirs, too."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from smallkube.core.errors import SmallkubeError
from smallkube.etcd import host
from smallkube.inventory.models import Node
from smallkube.remote.command import Command
from smallkube.smoke import objects, probes
from smallkube.smoke.context import SCRIPTS, Failed, NotReached, Pod, Scene, listed, parallel

_PROBE_SECONDS = 90
_NO_IMAGE = frozenset(
    {
        "InvalidImageName",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImagePullBackOff",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
"""Reasons for which a container waits that gets no image (kubernetes/pkg/kubelet/images, cri-api/pkg/errors).

A failed pull is tried again, but after ever longer pauses: a registry out of reach would cost the whole --rollout.
"""


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


def sweep(scene: Scene) -> None:
    """Remove what earlier runs left, without waiting for it."""
    scene.kubectl("delete", "namespace", f"--selector={objects.LABEL}={objects.MARK}", "--wait=false")


def prepare(scene: Scene) -> str:
    """Start a pod on every node. Raises Failed when some do not start; those that do are in ``scene.pods`` anyway."""
    sweep(scene)
    # Ctrl-C waits for the answer: a request still under way could make the namespace after it was removed.
    with ThreadPoolExecutor(1) as request:
        request.submit(scene.apply, [objects.namespace(scene.namespace)]).result()
    scene.made = True
    scene.apply([objects.daemon_set(scene.namespace, scene.options)])
    deadline = min(time.monotonic() + scene.options.rollout, scene.deadline)
    while waiting := _take_stock(scene, scene.get("pods", "-n", scene.namespace)["items"]):
        if time.monotonic() >= deadline or all(why.final for why in waiting.values()):
            break
        time.sleep(0.5)
    _offer(scene)
    if not scene.members:
        raise Failed("the cluster has no node of the inventory")
    if waiting:
        raise Failed(explanation(waiting, scene.options.image, scene.namespace))
    return f"{len(scene.pods)} pods"


def explanation(waiting: Mapping[str, Waiting], image: str, namespace: str) -> str:
    """Why the pods of these nodes do not run: for those without an image one message for each reason."""
    without_image: dict[str, list[str]] = {}
    for node, why in waiting.items():
        if why.final:
            without_image.setdefault(why.reason, []).append(node)
    parts = [
        f"no image {image} on {listed(nodes)}: {waiting[nodes[0]].reason}: {waiting[nodes[0]].message}"
        for nodes in without_image.values()
    ]
    if parts:
        parts.append("name one that the nodes can get: cluster.smoke.image in inventory.yaml, or --image")
    if others := [f"{node}: {why}" for node, why in waiting.items() if not why.final]:
        parts += [listed(others), f"kubectl describe pods -n {namespace} (--keep leaves them)"]
    return "; ".join(parts)


def _take_stock(scene: Scene, items: list[dict[str, Any]]) -> dict[str, Waiting]:
    """Note the pods that run; which nodes have none, and why."""
    short = {scene.host(node): node.name for node in scene.members}
    none = Waiting("", "no pod was made for it (kube-controller-manager)")
    scene.pods, reasons = [], dict.fromkeys(short.values(), none)
    for item in items:
        node = short.get(_meant_for(item))
        if node is None:
            continue
        conditions = {row["type"]: row["status"] for row in item["status"].get("conditions", ())}
        if conditions.get("Ready") == "True":
            addresses = [row["ip"] for row in item["status"].get("podIPs", ())]
            six = next((address for address in addresses if ":" in address), "")
            four = next((address for address in addresses if "." in address), "")
            scene.pods.append(Pod(item["metadata"]["name"], node, six, four))
            reasons.pop(node, None)
        else:
            reasons[node] = diagnosis(item)
    return reasons


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


def _offer(scene: Scene) -> None:
    """Services in front of the pods that run."""
    if not scene.pods:
        return

    def label(pod: Pod) -> str:
        return scene.kubectl("label", "pod", pod.name, "-n", scene.namespace, f"smoke-node={pod.node}", "--overwrite")

    for _, said in parallel(scene.pods, label):
        if isinstance(said, SmallkubeError):
            raise said
    scene.apply(objects.services(scene.namespace, scene.pods))
    deadline = min(time.monotonic() + 30, scene.deadline)
    while time.monotonic() < deadline:
        items = scene.get("endpointslices", "-n", scene.namespace)["items"]
        if sum(len(item.get("endpoints") or ()) for item in items) >= 3 * len(scene.pods):
            break
        time.sleep(0.3)
    for item in scene.get("services", "-n", scene.namespace)["items"]:
        scene.services[item["metadata"]["name"]] = item["spec"]["clusterIP"]
        if item["metadata"]["name"] == "probe-port":
            scene.node_port = item["spec"]["ports"][0]["nodePort"]


def logs(scene: Scene) -> str:
    def read(pod: Pod) -> str:
        return scene.kubectl("logs", pod.name, "-n", scene.namespace)

    wrong = []
    for pod, said in parallel(_running(scene), read):
        if said != "serving":
            wrong.append(f"{pod.node}: {said.message if isinstance(said, SmallkubeError) else 'other text'}")
    if wrong:
        raise Failed(f"{listed(wrong)}; is port 10250 of the kubelet open to the primary (firewall, tunnel)?")
    return ""


def execute(scene: Scene) -> str:
    """Let every pod try everything that later checks look at: one exec for each."""
    wrong = []
    for pod, found in parallel(_running(scene), lambda pod: _try(scene, pod)):
        if isinstance(found, SmallkubeError):
            wrong.append(f"{pod.node}: {found.message}")
        else:
            scene.answers[pod.node] = found
    if wrong:
        raise Failed(f"{listed(wrong)}; is port 10250 of the kubelet open to the primary (firewall, tunnel)?")
    return ""


def _try(scene: Scene, pod: Pod) -> dict[str, str]:
    wanted = probes.of_pod(scene, pod)
    words = ("exec", "--stdin", pod.name, "-n", scene.namespace, "--", "sh", "-c", _script("probe"))
    done = scene.ask(*words, stdin=probes.lines(wanted), seconds=_PROBE_SECONDS)
    if not done.ok:
        raise Failed(done.last_words)
    return probes.parse(wanted, done.text)


def from_machines(scene: Scene, check: str) -> str:
    """Judge what the machines try themselves; the first check that looks makes them try everything."""
    if not scene.heard and not scene.deaf:
        for node, found in parallel(scene.members, lambda node: _try_on(scene, node)):
            if isinstance(found, SmallkubeError):
                scene.deaf[node.name] = found.message
            else:
                scene.heard[node.name] = found
    return probes.by_machines(scene, check)


def _try_on(scene: Scene, node: Node) -> dict[str, str]:
    wanted = probes.of_machine(scene, node)
    argv = ("/bin/sh", "-c", _script("probe"))
    done = scene.machine(node).run(Command(argv, stdin=probes.lines(wanted), root=False, timeout=_PROBE_SECONDS))
    return probes.parse(wanted, done.text)


def _script(name: str) -> str:
    return (SCRIPTS / f"{name}.sh").read_text()


def _running(scene: Scene) -> list[Pod]:
    if not scene.pods:
        raise NotReached("no pod runs")
    return scene.pods


def encrypted(scene: Scene) -> str:
    if not scene.made:
        raise NotReached("there is no namespace to put a Secret into")
    scene.apply([objects.secret(scene.namespace)])
    key = f"/registry/secrets/{scene.namespace}/probe"
    argv = ("/bin/sh", "-c", _script("encrypted"), "encrypted", host.ENDPOINT, key, host.ENCRYPTION_CONFIGURATION)
    said = scene.primary.must(Command(argv)).text.splitlines()
    found, first = (*said, "", "")[:2]
    if found != f"k8s:enc:secretbox:v1:{first}":
        hint = "keys/EncryptionConfiguration.yaml.age is not what the API server uses, or has identity first"
        raise Failed(f"it begins with {found}, not k8s:enc:secretbox:v1:{first}: {hint}")
    return f"with {first}"


def clean(scene: Scene) -> str:
    """Remove the namespace, and see it gone; over a new connection when the old one is lost."""
    words = ("delete", "namespace", scene.namespace, "--ignore-not-found", "--wait=false")
    try:
        scene.kubectl(*words)
    except Failed:
        raise
    except SmallkubeError:
        scene.reconnect()
        scene.kubectl(*words)
    done = scene.ask("wait", "--for=delete", f"namespace/{scene.namespace}", "--timeout=60s", seconds=65)
    if not done.ok and "not found" not in done.stderr.lower():
        raise Failed(f"namespace {scene.namespace} is not gone after 60 s: {done.last_words}; the next run tries again")
    return ""


def evidence(scene: Scene) -> str:
    """What may explain a failure: the namespace's pods, events and last lines."""
    parts = []
    for words in (("get", "pods", "-o", "wide"), ("get", "events"), ("describe", "pods"), ("logs", "-l", "app=probe")):
        done = scene.ask(*words, "-n", scene.namespace)
        lines = (done.text or done.last_words).splitlines()
        parts.append(f"--- kubectl {' '.join(words)}\n" + "\n".join(lines[-60:]))
    return "\n".join(parts)
