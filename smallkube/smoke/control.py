"""Checks of etcd, the API server, the nodes as it knows them, and the components that act through it."""

import json
import re
import time
from datetime import UTC, datetime
from typing import Any

from smallkube.core.errors import SmallkubeError
from smallkube.etcd import status
from smallkube.remote.command import Command
from smallkube.smoke.context import Failed, NotReached, SmokeContext, listed

LEASE_SECONDS = 40
"""A kubelet's lease lasts so long, and is renewed every ten seconds (nodeLeaseDurationSeconds)."""
_FIRST_LEASE_SECONDS = 15
"""A node that has just joined has no lease yet."""
OLDEST_MINORS = 3
"""How many minors a kubelet may be behind the API server (kubernetes.io/releases/version-skew-policy)."""


def etcd_health(context: SmokeContext) -> str:
    try:
        found = status.read(context.primary, 10)
    except SmallkubeError as error:
        raise Failed(f"{error.message}: systemctl status etcd on the primary") from error
    if not found.leader:
        raise Failed("no leader: journalctl -u etcd on the primary")
    return f"{found.version}, revision {found.revision}"


def etcd_alarms(context: SmokeContext) -> str:
    try:
        found = status.read(context.primary, 10)
    except SmallkubeError as error:
        raise NotReached("etcd does not answer") from error
    if found.alarms:
        hint = "compact, defragment, then etcdctl alarm disarm"
        raise Failed(f"{', '.join(found.alarms)}: {hint} (etcd.io/docs/v3.6/op-guide/maintenance)")
    return f"{found.size >> 20} of {found.quota >> 20} MiB"


def api_ready(context: SmokeContext) -> str:
    done = context.readyz
    failed = re.findall(r"\[-\](\S+)", done.stdout.decode(errors="replace") + done.stderr)
    if failed:
        raise Failed(f"not ready: {listed(failed)}; journalctl -u kube-apiserver on the primary")
    if not done.ok:
        raise Failed(f"does not answer ({done.last_line}): systemctl status kube-apiserver on the primary")
    return f"{done.text.count('[+]')} parts are ready"


def _curl(context: SmokeContext, *words: str, stdin: bytes | None = None) -> str:
    """The status of a GET of /api on the primary, with what curl says when there is none."""
    plan = context.inventory.addressing
    port = context.inventory.cluster.api.port
    resolve = f"{plan.api_internal_host}:{port}:{plan.host6(context.inventory.primary.index)}"
    url = f"https://{plan.api_internal_host}:{port}/api"
    argv = ("curl", "--silent", "--show-error", "--max-time", "5", "--output", "/dev/null")
    done = context.primary.run(
        Command((*argv, "--write-out", "%{http_code}", "--resolve", resolve, *words, url), stdin=stdin, timeout=30)
    )
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
    raise Failed(f"answered {answer}: --anonymous-auth must be false (nix/modules/apiserver.nix)")


def api_certificate(context: SmokeContext) -> str:
    if context.certificate is None:
        raise NotReached("keys/apiserver.crt is not here")
    answer = _curl(context, "--cacert", "/dev/stdin", stdin=context.certificate)
    if answer.isdecimal():
        return "it is keys/apiserver.crt"
    if "certificate" in answer or "SSL" in answer:
        raise Failed(f"{answer}: the primary shows another certificate than keys/apiserver.crt; inv deploy")
    raise NotReached(answer)


def nodes_inventory(context: SmokeContext) -> str:
    there = {item["metadata"]["name"] for item in context.nodes}
    wanted = {context.host(node) for node in context.inventory.nodes}
    wrong = [f"{name} is missing (systemctl status kubelet there)" for name in sorted(wanted - there)]
    wrong += [f"{name} is not in inventory.yaml" for name in sorted(there - wanted)]
    if wrong:
        raise Failed(listed(wrong))
    return f"{len(there)} nodes"


def nodes_ready(context: SmokeContext) -> str:
    wrong = [f"{item['metadata']['name']}: {why}" for item in context.nodes if (why := _unready(item))]
    if wrong:
        raise Failed(f"{listed(wrong)}; journalctl -u kubelet there")
    return ""


def _unready(item: dict[str, Any]) -> str:
    for condition in item["status"].get("conditions", ()):
        if condition["type"] == "Ready":
            return "" if condition["status"] == "True" else condition.get("message") or condition.get("reason", "?")
    return "has never reported"


def nodes_versions(context: SmokeContext) -> str:
    said = _version(context)
    server = _minor(said)
    wrong = []
    for item in context.nodes:
        version = item["status"].get("nodeInfo", {}).get("kubeletVersion", "none")
        if not server - OLDEST_MINORS <= _minor(version) <= server:
            wrong.append(f"{item['metadata']['name']} has {version}")
    if wrong:
        raise Failed(f"the API server is {said}, and {listed(wrong)}: inv deploy --node … brings them in line")
    return said


def _version(context: SmokeContext) -> str:
    return str(json.loads(context.kubectl("get", "--raw", "/version"))["gitVersion"])


def _minor(version: str) -> int:
    found = re.match(r"v1\.(\d+)\.", version)
    return int(found[1]) if found else -1


def nodes_leases(context: SmokeContext) -> str:
    names = [item["metadata"]["name"] for item in context.nodes]
    deadline = min(time.monotonic() + _FIRST_LEASE_SECONDS, context.deadline)
    while True:
        leases = {item["metadata"]["name"]: item for item in context.get("leases", "-n", "kube-node-lease")["items"]}
        if leases.keys() >= {*names} or time.monotonic() > deadline:
            break
        time.sleep(1)
    now = _now(context)
    stale = [f"{name} ({age})" for name in names if (age := _stale(leases.get(name), now))]
    if stale:
        raise Failed(f"not renewed: {listed(stale)}; is the kubelet running there, and the tunnel up (inv net.check)?")
    return ""


def scheduler(context: SmokeContext) -> str:
    return _runs(context, "kube-scheduler")


def controllers(context: SmokeContext) -> str:
    return _runs(context, "kube-controller-manager")


def _runs(context: SmokeContext, name: str) -> str:
    """There is one of it, which elects no leader and holds no lease: its unit tells, and whether pods start."""
    state = context.primary.run(Command(("systemctl", "is-active", f"{name}.service"), root=False)).text.strip()
    if state != "active":
        raise Failed(f"{name}.service is {state or 'unknown'}: systemctl status {name} on the primary")
    return ""


def _stale(lease: dict[str, Any] | None, now: datetime) -> str:
    if lease is None or "renewTime" not in lease["spec"]:
        return "there is none"
    age = (now - datetime.fromisoformat(lease["spec"]["renewTime"])).total_seconds()
    return f"{age:.0f} s old" if age > LEASE_SECONDS else ""


def _now(context: SmokeContext) -> datetime:
    """The primary's clock: ours need not agree with it."""
    return datetime.fromtimestamp(int(context.primary.run_checked(Command(("date", "+%s"))).text), UTC)
