"""The cluster as a whole: its state, the way in, and whether it may be upgraded."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from invoke.context import Context

from smallkube.errors import SmallkubeError, UsageError
from smallkube.tasks import current, task

if TYPE_CHECKING:
    from smallkube.cluster.state import Api
    from smallkube.deploy.inspect import State
    from smallkube.inventory import Node
    from smallkube.nodes.machine import Machine
    from smallkube.tasks import Current

__all__ = ["kubeconfig", "status", "upgrade_check"]

RECENT = timedelta(days=1)


@task(help={"json": "print it as JSON"})
def status(_: Context, json: bool = False) -> None:
    """Show nodes, versions, tunnel, etcd, certificates, backup."""
    from smallkube import ui
    from smallkube.cluster import state as cluster_state
    from smallkube.etcd import catalog
    from smallkube.etcd import status as etcd_status
    from smallkube.nodes.machine import over_ssh
    from smallkube.remote import bundle
    from smallkube.secrets.store import read_keys

    here = current()
    inventory, now = here.inventory, datetime.now(UTC)
    digest = bundle.assemble(here.workspace, inventory).digest
    states = _states(here, digest)
    newest = catalog.read(catalog.folder_of(here.workspace, inventory)).newest
    problems, api, etcd = [], cluster_state.Api("", {}, {}), None
    try:
        with over_ssh(here.workspace)(inventory.primary) as primary:
            api = cluster_state.read_api(primary)
            etcd = etcd_status.read(primary, 10)
            problems += [f"etcd: {text}" for text in etcd_status.problems(etcd)]
            problems += etcd_status.remarks(newest, now)
    except SmallkubeError as error:
        problems.append(str(error))
    if not api.version:
        problems.append("the API server does not answer")
    rows = [cluster_state.row(inventory, node, states[node.name], api, digest) for node in inventory.nodes]
    problems += [f"{row.node}: {text}" for row in rows for text in row.problems]
    certificates = cluster_state.expiries(inventory, read_keys(here.workspace), now)
    problems += cluster_state.expiring(certificates)
    first = certificates[0] if certificates else ("none", 0)
    if json:
        ui.json_result(
            {
                "nodes": [asdict(row) for row in rows],
                "api": api.version,
                "etcd": asdict(etcd) if etcd else None,
                "certificates": dict(certificates),
                "last_backup": asdict(newest) if newest else None,
                "problems": problems,
            }
        )
    else:
        columns = ("NODE", "ROLE", "KUBELET", "READY", "LEASE", "TUNNEL", "DEPLOYED")
        ui.table(columns, [(r.node, r.role, r.kubelet, r.ready, r.lease, r.tunnel, r.system) for r in rows])
        size = f"{etcd.version}, {etcd.size >> 20} MiB, alarms: {', '.join(etcd.alarms) or 'none'}" if etcd else "?"
        ui.result(f"API server   {api.version or 'does not answer'}")
        ui.result(f"etcd         {size}")
        ui.result(f"certificates {len(certificates)}, the first to expire: {first[0]} in {first[1]} days")
        ui.result(f"last backup  {newest.name if newest else 'none'}")
    if problems:
        raise SmallkubeError("; ".join(problems), where=inventory.cluster.name)


def _states(here: "Current", digest: str) -> "dict[str, State | SmallkubeError]":
    from smallkube.deploy import inspect
    from smallkube.remote import fleet
    from smallkube.remote.connection import Session

    def read(node: "Node") -> "State":
        with Session(here.workspace, node) as session:
            return inspect.read(session, here.inventory, digest)

    outcomes = fleet.run([here.inventory.nodes], read)
    return {out.node.name: out.value or out.error or SmallkubeError("not asked") for out in outcomes}


@task(
    help={
        "out": "the file to write, or - (default: .smallkube/kubeconfig in the workspace)",
        "via": "external | tunnel | HOST[:PORT]: where the API server is reached",
        "force": "also over a file that this task has not written",
    }
)
def kubeconfig(_: Context, out: str | None = None, via: str = "external", force: bool = False) -> None:
    """Write the administrator's kubeconfig (mode 0600).

    It holds root's token and the API server's certificate; kubectl --kubeconfig FILE.
    """
    from pathlib import Path

    from smallkube import ui
    from smallkube.cluster import kubeconfig as making
    from smallkube.secrets import store
    from smallkube.workspace import write_file

    here = current()
    inventory = here.inventory
    making.server(inventory, via)
    token = store.show(here.workspace, inventory, "kube_token_root")
    certificate = None
    if inventory.cluster.api.tls == "pinned":
        pinned = here.workspace.keys_dir / "apiserver.crt"
        if not pinned.is_file():
            raise UsageError("missing", where=here.workspace.relative(pinned), hint="run `inv keys.generate`")
        certificate = pinned.read_bytes()
    else:
        ui.warn("cluster.api.tls is insecure: whoever answers at that address gets the token")
    text = making.render(inventory, token, certificate, via)
    if out == "-":
        ui.raw_result(text.encode())
        return
    path = Path(out).expanduser() if out else here.workspace.state_dir / "kubeconfig"
    user = f'"{inventory.cluster.name}-root"'
    if path.exists() and not force and user not in path.read_text(errors="replace"):
        raise UsageError("is there, and not of this cluster", where=str(path), hint="--out another, or --force")
    write_file(path, text, 0o600)
    ui.result(str(path))


@task(help={"json": "print the findings as JSON"})
def upgrade_check(_: Context, json: bool = False) -> None:
    """Say whether a deploy may change Kubernetes' version.

    Compares cluster.kubernetes in inventory.yaml with what runs: one minor at a time, the
    primary first, kubelets within the skew that upstream allows; and looks for what else
    should be well before.
    """
    from smallkube import ui
    from smallkube.cluster import skew
    from smallkube.cluster import state as cluster_state
    from smallkube.nodes.machine import over_ssh

    here = current()
    inventory = here.inventory
    with over_ssh(here.workspace)(inventory.primary) as primary:
        api = cluster_state.read_api(primary)
        if not api.version:
            raise SmallkubeError("the API server does not answer", where=inventory.primary.name)
        gone = skew.deprecated(cluster_state.metrics(primary))
        faults, warnings = _upgrade_findings(here, primary, api)
    rows = [("must not begin", text) for text in faults]
    rows += [("look first", text) for text in (*warnings, *(f"still asked for: {text}" for text in gone))]
    if json:
        ui.json_result({"runs": api.version, "target": inventory.cluster.kubernetes, "findings": rows})
    else:
        ui.result(f"runs {api.version}, inventory.yaml wants {inventory.cluster.kubernetes}")
        if rows:
            ui.table(("WEIGHT", "FINDING"), rows)
    if faults:
        raise SmallkubeError("an upgrade must not begin", where=inventory.cluster.name)


def _upgrade_findings(here: "Current", primary: "Machine", api: "Api") -> tuple[list[str], list[str]]:
    from smallkube.cluster import skew
    from smallkube.etcd import catalog
    from smallkube.etcd import status as etcd_status

    inventory, now = here.inventory, datetime.now(UTC)
    kubelets = {name: item["status"]["nodeInfo"]["kubeletVersion"] for name, item in api.nodes.items()}
    faults = list(skew.faults(inventory.cluster.kubernetes, api.version, kubelets))
    for name, item in api.nodes.items():
        conditions = {entry["type"]: entry["status"] for entry in item["status"].get("conditions", ())}
        if conditions.get("Ready") != "True":
            faults.append(f"{name} is not Ready")
    newest = catalog.read(catalog.folder_of(here.workspace, inventory)).newest
    warnings = []
    try:
        found = etcd_status.read(primary, 10)
        faults += [f"etcd has raised {alarm}" for alarm in found.alarms]
    except SmallkubeError as error:
        faults.append(str(error))
    if newest is None or now - newest.time > RECENT:
        warnings.append("no verified backup of the last day (inv etcd.backup)")
    return faults, warnings
