"""The cluster as a whole: its state, the way in, and whether it may be upgraded."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from invoke.context import Context

from smallkube.cli import current, task
from smallkube.core.errors import ErrorGroup, SmallkubeError, UsageError
from smallkube.secrets import policy

if TYPE_CHECKING:
    from pathlib import Path

    from smallkube.cli import Current
    from smallkube.operations.status import Row, Status

__all__ = ["kubeconfig", "status", "upgrade_check"]


@task(help={"json": "print it as JSON"})
def status(_: Context, json: bool = False) -> None:
    """Show nodes, versions, tunnel, etcd, certificates, backup.

    Exit status: 0 all is well; 1 something is not, or could not be asked (a line for each).
    """
    from smallkube.core import ui
    from smallkube.operations import status as reading

    here, now = current(), datetime.now(UTC)
    found = reading.read(here.workspace, here.inventory, now)
    if json:
        ui.json_result(_as_json(found, now))
    else:
        _show(found, now)
    if found.problems:
        raise ErrorGroup([SmallkubeError(problem) for problem in found.problems])


def _as_json(found: "Status", now: datetime) -> dict[str, Any]:
    backup = found.backup
    age = int((now - backup.time).total_seconds()) if backup else 0
    return {
        "nodes": [asdict(row) for row in found.rows],
        "api": found.api.version if found.api else "",
        "not_ready": found.api.failing if found.api else (),
        "etcd": asdict(found.etcd) if found.etcd else None,
        "certificates": found.certificates,
        "last_backup": {**asdict(backup), "age_seconds": age} if backup else None,
        "problems": found.problems,
    }


def _show(found: "Status", now: datetime) -> None:
    from smallkube.core import ui

    columns = ("NODE", "ROLE", "KUBELET", "KERNEL", "GENERATION", "READY", "LEASE", "TUNNEL", "DEPLOYED")
    ui.table(columns, [_cells(row) for row in found.rows])
    ui.result(f"API server    {_api(found)}")
    etcd = found.etcd
    alarms = ", ".join(etcd.alarms) or "none" if etcd else ""
    ui.result(f"etcd          {f'{etcd.version}, {etcd.size >> 20} MiB, alarms: {alarms}' if etcd else '?'}")
    days = (f"{file.removesuffix('.crt')} {left}" for file, left in _shortest(found.certificates).items())
    ui.result(f"certificates  days left: {', '.join(days)}")
    backup = found.backup
    ui.result(f"last backup   {f'{backup.name}, {ui.age(now - backup.time)} old' if backup else 'none here'}")


def _api(found: "Status") -> str:
    if not found.api:
        return "?"
    if not found.api.version:
        return "does not answer"
    ready = f"not ready: {', '.join(found.api.failing)}" if found.api.failing else "ready"
    return f"{found.api.version}, {ready}"


def _cells(row: "Row") -> tuple[str, ...]:
    ready = f"{row.ready}, cordoned" if row.cordoned else row.ready
    lease = "none" if row.lease_seconds is None else f"{row.lease_seconds} s"
    deployed = f"{row.deployed} (drift)" if row.drift else row.deployed
    return (row.node, row.role, row.kubelet, row.kernel, row.generation, ready, lease, row.tunnel, deployed)


def _shortest(certificates: Mapping[str, int]) -> dict[str, int]:
    """Of the kubelets' many only the first to expire."""
    kubelets = [file for file in certificates if file.startswith("kubelet_")]
    first = min(kubelets, key=lambda file: certificates[file], default="")
    return {file: left for file, left in certificates.items() if file not in kubelets or file == first}


@task(
    help={
        "out": "the file to write, or - (default: .smallkube/kubeconfig in the workspace)",
        "via": "external | tunnel | HOST[:PORT]: where the API server is reached",
        "force": "also over a file that this task has not written",
    }
)
def kubeconfig(_: Context, out: str | None = None, via: str = "external", force: bool = False) -> None:
    """Write the administrator's kubeconfig (mode 0600).

    It holds root's token and the API server's certificate; kubectl --kubeconfig FILE. With
    --via HOST:PORT for an SSH port-forward: ssh -L PORT:api.k8s.internal:6443 root@node1
    """
    from pathlib import Path

    from smallkube.core import ui
    from smallkube.core.workspace import write_file
    from smallkube.kube import kubeconfig as making
    from smallkube.secrets import certificates, store

    here = current()
    inventory = here.inventory
    trusted = _pinned(here)
    names = certificates.names_in(certificates.load(trusted[0], "keys/apiserver.crt")) if trusted else ()
    way = making.way(inventory, via, names)
    path = Path(out).expanduser() if out else here.workspace.state_dir / "kubeconfig"
    if out != "-":
        _may_write(path, inventory.cluster.name, force)
    token = store.show(here.workspace, inventory, "kube_token_root")
    text = making.render(inventory, token, b"".join(trusted) or None, way)
    if not trusted:
        ui.warn("cluster.api.tls is insecure: whoever answers at that address gets the token")
    if out == "-":
        ui.raw_result(text.encode())
        return
    write_file(path, text, 0o600)
    ui.result(str(path))


def _pinned(here: "Current") -> list[bytes]:
    """The API server's certificate, and what is trusted beside it during a rotation; none where it isn't checked."""
    if here.inventory.cluster.api.tls != "pinned":
        return []
    files = [here.workspace.keys_dir / name for name in policy.api_certificate(here.inventory).trusted_files]
    if not files[0].is_file():
        raise UsageError("missing", where=here.workspace.relative(files[0]), hint="run `inv keys.generate`")
    return [file.read_bytes() for file in files if file.is_file()]


def _may_write(path: "Path", cluster: str, force: bool) -> None:
    """Raises UsageError where a file would be lost that this task has not written."""
    from smallkube.kube import kubeconfig as making

    if path.is_symlink():
        raise UsageError("is a link", where=str(path), hint="name the file itself")
    if not path.exists():
        return
    if not path.is_file():
        raise UsageError("is not a file", where=str(path))
    try:
        text = path.read_text()
    except (OSError, ValueError):
        text = "unreadable"
    if not force and not making.is_ours(text, cluster):
        raise UsageError("is another file, which would be lost", where=str(path), hint="--out another, or --force")


@task(help={"json": "print the findings as JSON"})
def upgrade_check(_: Context, json: bool = False) -> None:
    """Say whether a deploy may change Kubernetes' version.

    Compares cluster.kubernetes in inventory.yaml with what runs: one minor at a time, the
    primary first, kubelets and kube-proxies within the skew that upstream allows; and looks
    for what else should be well before. Exit status: 0 it may begin; 1 it must not.
    """
    from smallkube.core import ui
    from smallkube.operations import upgrade_guard

    here = current()
    inventory = here.inventory
    facts = upgrade_guard.read(here.workspace, inventory)
    findings = upgrade_guard.judge(inventory, facts, datetime.now(UTC))
    if json:
        runs = facts.server(inventory.primary.name)
        wanted = inventory.cluster.kubernetes
        ui.json_result({"runs": runs, "target": wanted, "findings": [asdict(finding) for finding in findings]})
    else:
        ui.table(("CHECK", "RESULT", "DETAIL"), [(each.check, each.result, each.detail) for each in findings])
    if failed := [each for each in findings if each.result == "failed"]:
        checks = ", ".join(dict.fromkeys(each.check for each in failed))
        raise SmallkubeError(f"an upgrade must not begin: {checks}", where=inventory.cluster.name)
