"""The pods of a run: started, asked for logs and through exec, and what they find when they try things."""

import time
from typing import Any

from smallkube.errors import SmallkubeError
from smallkube.etcd import host
from smallkube.remote.command import Command
from smallkube.smoke import objects
from smallkube.smoke.probes import Probe, parse, probes
from smallkube.smoke.scene import SCRIPTS, Failed, NotReached, Pod, Scene, listed, parallel

_PROBE_SECONDS = 60


def sweep(scene: Scene) -> None:
    """Remove what earlier runs left, without waiting for it."""
    scene.kubectl("delete", "namespace", f"--selector={objects.LABEL}={objects.MARK}", "--wait=false")


def prepare(scene: Scene) -> str:
    """Start a pod on every node. Raises Failed when some do not start; those that do are in ``scene.pods`` anyway."""
    sweep(scene)
    scene.apply([objects.namespace(scene.namespace)])
    scene.apply([objects.daemon_set(scene.namespace, scene.options)])
    deadline = time.monotonic() + scene.options.rollout
    waiting = ["no pod at all"]
    while waiting and time.monotonic() < deadline:
        items = scene.get("pods", "-n", scene.namespace)["items"]
        waiting = _take_stock(scene, items)
        if waiting:
            time.sleep(0.5)
    _offer(scene)
    if waiting:
        raise Failed(f"{listed(waiting)}; kubectl describe pods -n {scene.namespace} (--keep leaves them)")
    return f"{len(scene.pods)} pods"


def _take_stock(scene: Scene, items: list[dict[str, Any]]) -> list[str]:
    """Note the pods that run; which nodes have none, and why."""
    short = {scene.host(node): node.name for node in scene.inventory.nodes}
    unscheduled = any("nodeName" not in item["spec"] for item in items)
    default = "its pod is not scheduled" if unscheduled else "no pod was made for it"
    scene.pods, reasons = [], dict.fromkeys(short.values(), default)
    for item in items:
        node = short.get(item["spec"].get("nodeName", ""))
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
            reasons[node] = _why(item)
    return [f"{node}: {why}" for node, why in reasons.items()]


def _why(item: dict[str, Any]) -> str:
    for state in item["status"].get("containerStatuses", ()):
        waiting = state.get("state", {}).get("waiting")
        if waiting:
            return f"{waiting.get('reason', 'waiting')} {waiting.get('message', '')[:160]}".strip()
    return str(item["status"].get("phase", "unknown"))


def _offer(scene: Scene) -> None:
    """Services in front of the pods that run."""
    if not scene.pods:
        return
    for pod in scene.pods:
        scene.kubectl("label", "pod", pod.name, "-n", scene.namespace, f"smoke-node={pod.node}", "--overwrite")
    scene.apply(objects.services(scene.namespace, scene.pods))
    deadline = time.monotonic() + 30
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
    for pod, found in parallel(_running(scene), lambda pod: _probe(scene, pod)):
        if isinstance(found, SmallkubeError):
            wrong.append(f"{pod.node}: {found.message}")
        else:
            scene.answers[pod.node] = found
    if wrong:
        raise Failed(f"{listed(wrong)}; is port 10250 of the kubelet open to the primary (firewall, tunnel)?")
    return ""


def _probe(scene: Scene, pod: Pod) -> dict[str, str]:
    wanted = probes(scene, pod)
    script = (SCRIPTS / "probe.sh").read_text()
    words = ("exec", "--stdin", pod.name, "-n", scene.namespace, "--", "sh", "-c", script)
    done = scene.ask(*words, stdin=_lines(wanted), seconds=_PROBE_SECONDS)
    if not done.ok:
        raise Failed(done.last_words)
    return parse(wanted, done.text)


def _lines(wanted: list[Probe]) -> bytes:
    return "".join(f"{number} {' '.join(probe.words)}\n" for number, probe in enumerate(wanted)).encode()


def _running(scene: Scene) -> list[Pod]:
    if not scene.pods:
        raise NotReached("no pod runs")
    return scene.pods


def encrypted(scene: Scene) -> str:
    scene.apply([objects.secret(scene.namespace)])
    script = (SCRIPTS / "encrypted.sh").read_text()
    key = f"/registry/secrets/{scene.namespace}/probe"
    argv = ("/bin/sh", "-c", script, "encrypted", host.ENDPOINT, key, host.ENCRYPTION_CONFIGURATION)
    said = scene.primary.must(Command(argv)).text.splitlines()
    found, first = (*said, "", "")[:2]
    if found != f"k8s:enc:secretbox:v1:{first}":
        hint = "keys/EncryptionConfiguration.yaml.age is not what the API server uses, or has identity first"
        raise Failed(f"it begins with {found}, not k8s:enc:secretbox:v1:{first}: {hint}")
    return f"with {first}"


def clean(scene: Scene) -> str:
    """Remove the namespace, and see it gone."""
    scene.kubectl("delete", "namespace", scene.namespace, "--ignore-not-found", "--wait=false")
    done = scene.ask("wait", "--for=delete", f"namespace/{scene.namespace}", "--timeout=60s", seconds=65)
    if not done.ok and "not found" not in done.stderr.lower():
        raise Failed(f"namespace {scene.namespace} is not gone after 60 s: {done.last_words}")
    return ""


def evidence(scene: Scene) -> str:
    """What may explain a failure: the namespace's pods, events and last lines."""
    parts = []
    for words in (("get", "pods", "-o", "wide"), ("get", "events"), ("describe", "pods"), ("logs", "-l", "app=probe")):
        done = scene.ask(*words, "-n", scene.namespace)
        lines = (done.text or done.last_words).splitlines()
        parts.append(f"--- kubectl {' '.join(words)}\n" + "\n".join(lines[-60:]))
    return "\n".join(parts)
