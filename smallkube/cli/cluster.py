"""The cluster as a whole: does it work, its state, and the administrator's access."""

import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from smallkube.cli import kubeconfigs, output
from smallkube.cli.context import Current, Limits, Seconds, task, words
from smallkube.core import ui
from smallkube.core.errors import ErrorGroup, SmallkubeError, UsageError
from smallkube.core.files import lock, write_file

if TYPE_CHECKING:
    from smallkube.inventory.sections import Smoke
    from smallkube.kube.audit_log import Request
    from smallkube.operations.cluster_facts import Use
    from smallkube.operations.status import Row, Status
    from smallkube.smoke.context import Options
    from smallkube.smoke.report import SmokeResult

Image = Annotated[str | None, "busybox image for the smoke test's pods (default: cluster.smoke.image)"]
PullPolicyFlag = Annotated[str | None, "Always, IfNotPresent or Never (default: cluster.smoke.pull_policy)"]


def image_of(smoke: "Smoke", image: str | None, pull_policy: str | None) -> tuple[str, str]:
    """Image and pull policy by the flags, else by the inventory.

    Raises UsageError when a flag has a value that the inventory could not have.
    """
    from smallkube.inventory.fields import PullPolicy

    if image is not None and not re.fullmatch(r"\S+", image):
        raise UsageError(f"--image {image!r}", hint="expected the name of an image, such as busybox:1.37")
    if pull_policy is not None and pull_policy not in get_args(PullPolicy):
        raise UsageError(f"--pull-policy {pull_policy}", hint=f"one of {', '.join(get_args(PullPolicy))}")
    return image or smoke.image, pull_policy or smoke.pull_policy


@task("json", "wide")
def smoke(
    here: Current,
    only: Annotated[list[str], "only these checks or groups (repeatable, or separated by commas)"],
    skip: Annotated[list[str], "skip these checks or groups"],
    image: Image = None,
    pull_policy: PullPolicyFlag = None,
    egress: Annotated[str, "HOST:PORT outside the cluster that pods should reach (default: none is tried)"] = "",
    timeout: Annotated[Seconds, "seconds for the whole test, clean-up excluded"] = 300,
    rollout: Annotated[Seconds, "seconds for the pods to start; from 180 on, answers may take longer, too"] = 90,
    keep: Annotated[bool, "keep the pods for inspection; the next run removes them"] = False,
    junit: Annotated[str | None, "also write the report to this file, as JUnit XML"] = None,
) -> None:
    """Test that the cluster works, and clean up.

    Makes a namespace with a pod on every node, and always removes it again. Exit
    status: 0 every check is ok or skipped; 1 a check failed or could not run. One
    run at a time; a run removes what an interrupted one left.
    """
    from smallkube.smoke import report, table
    from smallkube.smoke.context import Options

    if egress and not egress.rpartition(":")[2].isdecimal():
        raise UsageError(f"--egress {egress}", hint="expected HOST:PORT")
    if junit and Path(junit).is_dir():
        raise UsageError(f"--junit {junit}: is a folder", hint="name a file")
    wanted = table.select(words(only), words(skip))
    cluster = here.inventory.cluster
    options = Options(*image_of(cluster.smoke, image, pull_policy), egress, timeout, rollout, keep)
    for number in (signal.SIGTERM, signal.SIGHUP):  # they must not keep the test from cleaning up
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    with output.steps("smoke", shown=sys.stderr.isatty()) as step:
        results = run_smoke(here, options, wanted, step)
    rows = [(one.check, one.outcome, f"{one.seconds:.1f}", one.detail) for one in results]
    output.table(here, results, ("CHECK", "RESULT", "SECONDS", "DETAIL"), rows)
    if junit:
        write_file(Path(junit), report.junit(results, cluster.name))
    if faults := report.faults(results):
        raise SmallkubeError(f"checks failed: {', '.join(faults)}", where=cluster.name)


def run_smoke(
    here: Current, options: "Options", wanted: Sequence[str], step: Callable[[str], object] = lambda _: None
) -> "Sequence[SmokeResult]":
    """Run the checks ``wanted`` under the lock that makes it one run at a time."""
    from smallkube.smoke import runner

    pinned = here.workspace.keys_dir / "apiserver.crt"
    certificate = pinned.read_bytes() if pinned.is_file() else None
    with lock(here.workspace.state_dir / "smoke.lock", "the smoke test"):
        return runner.run(here.inventory, here.connect, certificate, options, wanted, step, ui.message)


@task("json", "wide")
def status(here: Current) -> None:
    """Show the state of nodes, API server and etcd.

    With versions, tunnel, certificates and last backup; --wide and --json also
    with what each service uses: resident memory, and percent of a core since it
    started. Exit status: 0 all healthy; 1 something is not healthy or not
    reachable (one line for each).
    """
    from smallkube.operations import status as reading

    now = datetime.now(UTC)
    found = reading.read(here.cluster, here.connect, now)
    ui.json_result(_as_json(found, now)) if here.json else _show(found, now, here.wide)
    for warning in found.warnings:
        ui.warn(warning)
    if found.problems:
        raise ErrorGroup([SmallkubeError(problem) for problem in found.problems])


def _as_json(found: "Status", now: datetime) -> dict[str, Any]:
    backup, api = found.backup, found.api
    age = int((now - backup.time).total_seconds()) if backup else 0
    return {
        "nodes": found.rows,
        "api": api.version if api else "",
        "not_ready": api.failing if api else (),
        "etcd": found.etcd,
        "certificates": found.certificates,
        "last_backup": {**asdict(backup), "age_seconds": age} if backup else None,
        "problems": found.problems,
        "warnings": found.warnings,
    }


def _show(found: "Status", now: datetime, wide: bool) -> None:
    rows = []
    for row in found.rows:
        ready = f"{row.ready}, cordoned" if row.cordoned else row.ready
        lease = "none" if row.lease_seconds is None else f"{row.lease_seconds} s"
        deployed = f"{row.deployed} (drift)" if row.drift else row.deployed
        rows.append((row.node, row.role, row.kubelet, row.kernel, row.generation, ready, lease, row.tunnel, deployed))
    columns = ("NODE", "ROLE", "KUBELET", "KERNEL", "GENERATION", "READY", "LEASE", "TUNNEL", "DEPLOYED")
    ui.table(columns, rows, spare=("KERNEL", "LEASE", "GENERATION"), wide=wide)
    if wide:
        show_uses(found.rows)
    api, etcd, backup = found.api, found.etcd, found.backup
    ready = f"not ready: {', '.join(api.failing)}" if api and api.failing else "ready"
    answer = f"{api.version}, {ready}" if api and api.version else "does not answer"
    ui.result(f"API server    {answer if api else '?'}")
    alarms = ", ".join(etcd.alarms) or "none" if etcd else ""
    ui.result(f"etcd          {f'{etcd.version}, {etcd.size >> 20} MiB, alarms: {alarms}' if etcd else '?'}")
    left = dict(sorted(found.certificates.items(), key=lambda each: each[1]))
    kubelets = [file for file in left if file.startswith("kubelet_")]  # of which the first to expire is shown
    days = (f"{file.removesuffix('.crt')} {left[file]}" for file in found.certificates if file not in kubelets[1:])
    ui.result(f"certificates  days left: {', '.join(days)}")
    ui.result(f"last backup   {f'{backup.name}, {ui.age(now - backup.time)} old' if backup else 'none here'}")


def show_uses(nodes: "Sequence[Row]") -> None:
    """Resident memory, and percent of a core since the service started; "-" where it does not run."""
    services = list(dict.fromkeys(service for row in nodes for service in row.uses))
    each = [[[row.uses[service]] if service in row.uses else [] for service in services] for row in nodes]
    rows = [(row.node, *map(_sum, (list(row.uses.values()), *alone))) for row, alone in zip(nodes, each, strict=True)]
    ui.table(("NODE", "ALL SERVICES", *(service.upper() for service in services)), rows, wide=True)


def _sum(uses: Sequence["Use"]) -> str:
    memory, share = sum(use.memory for use in uses), sum(use.share for use in uses)
    return f"{memory >> 10} MiB {share:.1f} %" if uses else "-"


@task("json", "wide")
def audit(
    here: Current,
    user: Annotated[list[str], "only these users, such as root (repeatable, or separated by commas)"],
    verb: Annotated[list[str], "only these verbs, such as delete"],
    namespace: Annotated[list[str], "only in these namespaces"],
    resource: Annotated[list[str], "only these resources, such as secrets or pods/exec"],
    since: Annotated[str | None, "only the last 90s, 30m, 2h or 7d"] = None,
    limit: Annotated[int, Limits(1, 1000), "at most so many, the newest"] = 50,
) -> None:
    """Show who did what: the API server's audit log.

    The newest last, times in UTC: every change, every access to a Secret, and
    what people read; not what components of the cluster read. CREDENTIAL begins
    like that of inv users.list; a static token has none.
    """
    from smallkube.core import durations
    from smallkube.kube import audit_log

    seconds = durations.seconds(since, "--since") if since else 0
    wanted = audit_log.Wanted(seconds, limit, words(user), words(verb), words(namespace), words(resource))
    with here.connect(here.inventory.primary) as primary:
        found = audit_log.requests(primary, wanted)
    columns = ("TIME", "USER", "CREDENTIAL", "VERB", "OBJECT", "CODE", "FROM")
    output.table(here, found, columns, [_row(one) for one in found], spare=("CREDENTIAL", "FROM"))


def _row(request: "Request") -> tuple[object, ...]:
    user = f"{request.user} as {request.impersonated}" if request.impersonated else request.user
    where = "/".join(filter(None, (request.namespace, request.name)))
    what = request.path or f"{request.resource} {where}".strip()
    time, credential = request.time[:19].replace("T", " "), output.short_credential(request.credential)
    return time, user, credential, request.verb, what, request.code or "-", request.address


@task()
def kubeconfig(
    here: Current,
    out: kubeconfigs.Out = None,
    merge: kubeconfigs.Merge = False,
    context: kubeconfigs.Context = None,
    via: kubeconfigs.Via = "external",
    force: kubeconfigs.Force = False,
) -> None:
    """Write the administrator's kubeconfig.

    A file of mode 0600 with root's token and the API server's certificate, for
    kubectl --kubeconfig FILE. --via HOST:PORT is for a tunnel of your own; see
    cluster.connect too.
    """
    from smallkube.kube.kubeconfig import Credential
    from smallkube.secrets import edit

    target = kubeconfigs.Target(here, "root", out, merge, context or here.inventory.cluster.name, via, force)
    target.write(lambda: Credential.by_token("root", edit.show(here.cluster, "kube_token_root")))


@task()
def connect(
    here: Current,
    port: Annotated[int, Limits(0, 65535), "port of 127.0.0.1 to listen at (default: 16443; 0: a free one)"] = 16443,
) -> None:
    """Reach the API server over SSH until Ctrl-C.

    Writes a kubeconfig for the tunnel, which is removed at the end, and shows how
    to use it. Needs no open port but SSH, and no DNS name. When the connection is
    lost, it is made again.
    """
    from smallkube.kube.kubeconfig import Credential
    from smallkube.remote.ssh import SshHost
    from smallkube.remote.tunnel import LOOPBACK, Tunnel, listen
    from smallkube.secrets import edit

    inventory = here.inventory
    primary, name = inventory.primary, inventory.cluster.name
    with listen(port) as listener:
        port = listener.getsockname()[1]
        file = here.workspace.state_dir / f"kubeconfig-{port}"
        target = kubeconfigs.Target(here, "root", str(file), False, name, f"{LOOPBACK}:{port}", force=True)

        def ready() -> None:
            target.write(lambda: Credential.by_token("root", edit.show(here.cluster, "kube_token_root")))
            ui.message("connected; Ctrl-C ends it")

        api = (inventory.addressing.host6(primary.index), inventory.cluster.api.port)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        try:
            Tunnel(lambda: SshHost(here.workspace, primary), api, listener, ui.message).serve(ready)
        except KeyboardInterrupt:
            ui.message("disconnected")
        finally:
            file.unlink(missing_ok=True)
