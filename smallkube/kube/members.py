"""The nodes as members of the Kubernetes cluster: read, drained and uncordoned by kubectl on the primary.

Flags: https://kubernetes.io/docs/reference/kubectl/generated/kubectl_drain/ (1.34).
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from smallkube.core.errors import MALFORMED, SmallkubeError
from smallkube.inventory.models import Inventory, Node
from smallkube.remote import fleet
from smallkube.remote.fleet import NodeOutcome, Report, Watcher
from smallkube.remote.host import Command, Connect, Host, Result

API_UNIT = "kube-apiserver.service"
KUBECTL = ("kubectl", "--kubeconfig=/run/kubeconfig-root")
"""kubectl as root on the primary; the file is written by its generate-kubeconfig-root.service."""
APPLY = ("apply", "--server-side", "--force-conflicts", "--validate=false", "--filename=-")
"""Words for kubectl that create or change what standard input describes, as YAML or JSON.

The API server itself refuses fields that it does not know, whatever ``--validate`` says: for a check of its own kubectl
would first download the description of each API group it needs, 1.6 MB for the core (both seen with 1.36).
"""
MARK = "smallkube/drained-for"
"""Annotation of a node that we have cordoned and are to uncordon; also after the process that did was killed."""
DRAIN_SECONDS = 300
_ANSWER_SECONDS = 30


@dataclass(frozen=True)
class Member:
    """A Node (core/v1). ``marked``: we cordoned it. ``kubelet``: version, ``boot_id``: both of its last report."""

    ready: bool
    cordoned: bool
    marked: bool
    kubelet: str = ""
    boot_id: str = ""


def api_down(inventory: Inventory, connect: Connect) -> str:
    """Why the cluster can't be asked now, "" when it can: the API server's unit is active once it has answered.

    Raises SmallkubeError when the primary can't be asked.
    """
    with connect(inventory.primary) as primary:
        found = primary.run(Command(("systemctl", "is-active", API_UNIT), root=False))
    state = found.text.strip() or f"unknown ({found.last_line})"
    return "" if state == "active" else f"{API_UNIT} on {inventory.primary.name} is {state}"


def change(
    inventory: Inventory,
    nodes: Sequence[Node],
    connect: Connect,
    act: Callable[[Host, str], None],
    outcome: NodeOutcome,
    watcher: Watcher,
    stop: threading.Event,
) -> tuple[Report, ...]:
    """``drain`` or ``uncordon`` as ``act`` on each of ``nodes``; a node that can't be drained ends it.

    Ctrl-C sets ``stop``. Raises SmallkubeError when the API server does not run.
    """
    if reason := api_down(inventory, connect):
        raise SmallkubeError(reason, hint=f"inv deploy.status --node {inventory.primary.name} says more")

    def work(node: Node) -> Report:
        watcher.step(node.name, "ask the primary")
        with connect(inventory.primary) as primary:
            act(primary, inventory.addressing.node_host(node.index))
        return Report(node.name, outcome)

    tolerated = 0 if outcome is NodeOutcome.DRAINED else len(nodes)
    return fleet.report([[node] for node in nodes], work, watcher, stop, kind=Report, max_failures=tolerated)


def is_marked(primary: Host, host: str) -> bool:
    """Whether the node called ``host`` is there and marked; by one command, and False while no API server runs.

    Raises SmallkubeError without an answer.
    """
    asking = kubectl("get", "node", host, "--ignore-not-found", "--output=json")
    script = f'systemctl is-active --quiet {API_UNIT} || exit 0; exec "$@"'
    argv = ("/bin/sh", "-c", script, "kubectl", *asking.argv)
    found = _parsed(primary.run_checked(replace(asking, argv=argv, title="is it marked")).text)
    return bool(found and found.marked)


def member(primary: Host, host: str) -> Member | None:
    """The node called ``host``, None when the cluster has no such node. Raises SmallkubeError without an answer."""
    return _parsed(primary.run_checked(kubectl("get", "node", host, "--ignore-not-found", "--output=json")).text)


def _parsed(text: str) -> Member | None:
    try:
        return parse_member(json.loads(text)) if text.strip() else None
    except MALFORMED as error:
        raise SmallkubeError("unexpected output from kubectl: not a Node") from error


def parse_member(item: Mapping[str, Any]) -> Member:
    """From a Node in JSON, parsed."""
    status = item["status"]
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions", ())}
    reported = status.get("nodeInfo", {})
    return Member(
        ready=conditions.get("Ready") == "True",
        cordoned=bool(item.get("spec", {}).get("unschedulable")),
        marked=MARK in item["metadata"].get("annotations", {}),
        kubelet=str(reported.get("kubeletVersion", "")),
        boot_id=str(reported.get("bootID", "")),
    )


def drain(primary: Host, host: str, seconds: int, stopped: Callable[[], bool] = lambda: False) -> None:
    """Cordon ``host`` and evict its pods (what a DaemonSet runs stays).

    Raises SmallkubeError when pods are left after ``seconds``; the node is cordoned then.
    """
    arguments = ("drain", host, "--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={seconds}s")
    reply = primary.run(kubectl(*arguments, seconds=seconds + _ANSWER_SECONDS), stopped=stopped)
    if not reply.ok:
        raise SmallkubeError(f"can't be drained: {_complaint(reply)}")


def _complaint(reply: Result) -> str:
    """kubectl's own errors; what it prints last is often only which nodes are left."""
    errors = [line for line in reply.stderr.splitlines() if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else reply.last_line


def uncordon(primary: Host, host: str) -> None:
    """Let pods be scheduled on ``host`` again, and forget that it was us who cordoned it."""
    primary.run_checked(kubectl("uncordon", host))
    primary.run_checked(kubectl("annotate", "node", host, f"{MARK}-"))


def pods_on(host: str) -> tuple[str, ...]:
    """Words for kubectl that select all pods on a node."""
    return ("--all-namespaces", f"--field-selector=spec.nodeName={host}")


def delete(primary: Host, host: str) -> None:
    """Delete the Node ``host`` and what is left of its pods, which are not waited for: only its kubelet could report
    that they have ended. Raises SmallkubeError when it still exists.
    """
    primary.run_checked(kubectl("delete", "node", host, "--ignore-not-found", "--wait=false"))
    primary.run_checked(kubectl("delete", "pods", "--grace-period=0", "--force", "--wait=false", *pods_on(host)))
    left = primary.run_checked(kubectl("get", "node", host, "--ignore-not-found", "--output=name")).text.strip()
    if left:
        raise SmallkubeError(f"{left} still exists", hint="run the same command again")


def mark(primary: Host, host: str, purpose: str) -> None:
    """Note on the node that it is we who cordon it, before we do."""
    primary.run_checked(kubectl("annotate", "node", host, f"{MARK}={purpose}", "--overwrite"))


def kubectl(*arguments: str, seconds: float = _ANSWER_SECONDS) -> Command:
    """For the primary; ``seconds`` that it takes at most."""
    patience = () if arguments[0] == "drain" else (f"--request-timeout={_ANSWER_SECONDS}s",)
    return Command((*KUBECTL, *patience, *arguments), timeout=seconds + 60)
