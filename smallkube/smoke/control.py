"""Checks of etcd, the API server, the nodes as it knows them, and the components that act through it."""

import json
from datetime import UTC, datetime
from typing import Any

from smallkube.core.errors import SmallkubeError, listed
from smallkube.etcd import status
from smallkube.kube import kubectl, versions
from smallkube.kube.members import parse_member
from smallkube.remote.host import Command
from smallkube.smoke.context import Failed, NotReached, Skipped, SmokeContext, fail_if

_FIRST_LEASE_SECONDS = 15
"""A node that has just joined has no lease yet."""


def etcd_health(context: SmokeContext) -> str:
    found = status.read(context.primary, 10)
    if not found.leader:
        raise Failed("no leader")
    return f"{found.version}, revision {found.revision}"


def etcd_alarms(context: SmokeContext) -> str:
    try:
        found = status.read(context.primary, 10)
    except SmallkubeError as error:
        raise NotReached("etcd does not answer") from error
    fail_if(found.alarms)
    return f"{found.size >> 20} of {found.quota >> 20} MiB"


def api_ready(context: SmokeContext) -> str:
    failing = kubectl.parse_ready(context.readyz)
    if failing:
        raise Failed(f"not ready: {listed(failing)}")
    return f"{context.readyz.text.count('[+]')} parts are ready"


def _curl(context: SmokeContext, *words: str, stdin: bytes | None = None) -> str:
    """The status of a GET of /api on the primary, with what curl says when there is none."""
    plan = context.inventory.addressing
    port = context.inventory.cluster.api.port
    resolve = f"{plan.api_internal_host}:{port}:{plan.host6(context.inventory.primary.index)}"
    url = f"https://{plan.api_internal_host}:{port}/api"
    seconds = 5 * context.options.slowness
    limited = ("curl", "--silent", "--show-error", "--max-time", str(seconds), "--output", "/dev/null")
    argv = (*limited, "--write-out", "%{http_code}", "--resolve", resolve, *words, url)
    done = context.primary.run(Command(argv, stdin=stdin, timeout=seconds + 25))
    if done.ok:
        return done.text
    # After its message about a certificate come lines of advice.
    return next((line for line in done.stderr.splitlines() if line.startswith("curl: (")), done.last_line)


def api_anonymous(context: SmokeContext) -> str:
    answer = _curl(context, "--insecure")
    if answer == "401":
        return "401"
    if not answer.isdecimal():
        raise NotReached(answer)
    raise Failed(f"answered {answer}")


def api_certificate(context: SmokeContext) -> str:
    if context.inventory.cluster.api.tls != "pinned":
        raise Skipped("cluster.api.tls is insecure")
    if context.certificate is None:
        raise NotReached("keys/apiserver.crt not found")
    answer = _curl(context, "--cacert", "/dev/stdin", stdin=context.certificate)
    if answer.isdecimal():
        return "it is keys/apiserver.crt"
    if "certificate" in answer or "SSL" in answer:
        raise Failed(f"{answer}: the primary shows another certificate than keys/apiserver.crt")
    raise NotReached(answer)


def nodes_inventory(context: SmokeContext) -> str:
    there = {item["metadata"]["name"] for item in context.nodes}
    wanted = {context.host(node) for node in context.inventory.nodes}
    fail_if(
        [f"{name} is missing (systemctl status kubelet there)" for name in sorted(wanted - there)]
        + [f"{name} is not in inventory.yaml" for name in sorted(there - wanted)]
    )
    return f"{len(there)} nodes"


def nodes_ready(context: SmokeContext) -> str:
    fail_if(f"{item['metadata']['name']}: {why}" for item in context.nodes if (why := _unready(item)))
    return ""


def _unready(item: dict[str, Any]) -> str:
    for condition in item["status"].get("conditions", ()):
        if condition["type"] == "Ready":
            return "" if condition["status"] == "True" else condition.get("message") or condition.get("reason", "?")
    return "has never reported"


def nodes_versions(context: SmokeContext) -> str:
    server = str(json.loads(context.kubectl("get", "--raw", "/version"))["gitVersion"])
    kubelets = {item["metadata"]["name"]: parse_member(item).kubelet for item in context.nodes}
    unknown = [f"{name} has not reported its version" for name, version in kubelets.items() if not version]
    known = {name: version for name, version in kubelets.items() if version}
    fail_if([*unknown, *versions.skew(server, server, known)])
    return server


def nodes_leases(context: SmokeContext) -> str:
    names = [item["metadata"]["name"] for item in context.nodes]
    leases: dict[str, kubectl.Lease] = {}

    def missing() -> list[str]:
        leases.update(kubectl.parse_leases(context.items("leases", "-n", "kube-node-lease")))
        return [name for name in names if name not in leases]

    context.wait(missing, _FIRST_LEASE_SECONDS, 1)
    # The primary's clock: ours need not agree with it.
    now = datetime.fromtimestamp(int(context.primary.run_checked(Command(("date", "+%s"))).text), UTC)
    fail_if(f"{name} ({age})" for name in names if (age := _stale(leases.get(name), now)))
    return ""


def _stale(lease: kubectl.Lease | None, now: datetime) -> str:
    if lease is None:
        return "there is none"
    age = (now - lease.renewed).total_seconds()
    return f"{age:.0f} s old" if age > lease.seconds else ""


def runs(context: SmokeContext, component: str) -> str:
    """There is one of it, which elects no leader and holds no lease: its unit tells, and whether pods start."""
    state = context.primary.run(Command(("systemctl", "is-active", f"{component}.service"), root=False)).text.strip()
    if state != "active":
        raise Failed(f"{component}.service is {state or 'unknown'}")
    return ""
