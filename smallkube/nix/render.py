"""Inventory → ``nix/flake.nix`` and ``nix/rendered/``: thin leaves; the modules themselves are hand-written."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING

from smallkube.core.files import write_file
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory
from smallkube.nix.literal import NixPath, literal
from smallkube.secrets import policy

if TYPE_CHECKING:
    from jinja2 import Environment

MARK = "Rendered from inventory.yaml by `inv nix.render`"
"""Stands in the first line of every rendered file; only files that carry it are ever removed."""


@dataclass(frozen=True)
class Plan:
    """What rendering would do: ``files`` with their new content, ``obsolete`` ones that no node needs.

    ``starters`` are first versions of the operator's own files (``nix/hosts/``), only where there is none.
    """

    files: dict[Path, str]
    starters: dict[Path, str]
    obsolete: tuple[Path, ...]

    @property
    def changed(self) -> tuple[Path, ...]:
        """The files whose content on disk differs from the plan, obsolete ones included."""
        differing = [path for path, text in (self.files | self.starters).items() if _read(path) != text]
        return (*differing, *self.obsolete)

    def diff(self, root: Path) -> str:
        """The change as a unified diff, with paths relative to ``root``."""
        parts: list[str] = []
        for path in self.changed:
            name = str(path.relative_to(root))
            new = (self.files | self.starters).get(path, "")
            old = _read(path) or ""
            parts += unified_diff(old.splitlines(True), new.splitlines(True), f"a/{name}", f"b/{name}")
        return "".join(parts)

    def apply(self) -> None:
        """Write what differs and remove what is obsolete."""
        for path, text in (self.files | self.starters).items():
            write_file(path, text)
        for path in self.obsolete:
            path.unlink(missing_ok=True)


def plan(cluster: Cluster) -> Plan:
    """What ``nix/`` should hold for this inventory and the secrets that are there."""
    environment = _environment(cluster.workspace)
    rendered = cluster.workspace.rendered_dir
    files = {
        cluster.workspace.flake_file: environment.get_template("flake.nix.j2").render(inventory=cluster.inventory),
        rendered / "cluster.nix": environment.get_template("cluster.nix.j2").render(kube=_cluster(cluster.inventory)),
    }
    starters = {}
    existing = frozenset(path.name for path in cluster.workspace.keys_dir.glob("*.age"))
    secrets = policy.secrets_by_node(cluster.inventory, existing)
    for node in cluster.inventory.nodes:
        files[rendered / f"{node.name}.nix"] = environment.get_template("node.nix.j2").render(
            node=node,
            secret_files={name: NixPath(f"../../keys/{row.file}") for name, row in secrets[node.name].items()},
            secret_access={name: access for name, row in secrets[node.name].items() if (access := _access(row))},
            token_users=_token_users(cluster.inventory),
        )
        files[rendered / "channel" / f"{node.name}.nix"] = environment.get_template("channel.nix.j2").render(node=node)
        own = cluster.workspace.hosts_dir / f"{node.name}.nix"
        if not own.exists():
            starters[own] = environment.get_template("host.nix.j2").render(node=node, inventory=cluster.inventory)
    return Plan(files, starters, _obsolete(rendered, files))


def _access(row: policy.Secret) -> dict[str, str]:
    """What differs from agenix's default, which is root's alone."""
    return {name: value for name, value in asdict(row.access).items() if value != getattr(policy.Access, name)}


def _token_users(inventory: Inventory) -> list[dict[str, object]]:
    rows = policy.secrets_of(inventory)
    return [{"secret": row.name, "name": row.user.name, "groups": row.user.groups} for row in rows if row.user]


def _cluster(inventory: Inventory) -> dict[str, object]:
    cluster = inventory.cluster
    network = cluster.network
    return {
        "clusterName": cluster.name,
        "domain": cluster.domain,
        "kubernetesMinor": cluster.kubernetes,
        "prefix6": network.prefix6,
        "prefix4": network.prefix4,
        "mtu": network.mtu,
        "wgPort": network.wireguard_port,
        "persistentKeepalive": network.persistent_keepalive,
        "openToPods": network.open_to_pods,
        "privateRanges": network.private,
        "peersFile": NixPath("../../keys/peers.json"),
        "keysDir": NixPath("../../keys"),
        "kubeletAuth": cluster.kubelet_auth,
        "api": {
            "port": cluster.api.port,
            "externalHost": cluster.api.external_host,
            "tls": cluster.api.tls,
            "allowFrom": cluster.api.allow_from,
        },
        "userAddons": tuple(NixPath(f"../../{addon}") for addon in cluster.addons),
    }


def _environment(workspace: Workspace) -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(workspace.nix_sources("templates")),
        undefined=StrictUndefined,
        autoescape=False,
        finalize=_refuse_unfiltered,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["nix"] = lambda value, indent=0: NixText(literal(value, indent))
    environment.globals["mark"] = NixText(MARK)
    environment.globals["path"] = NixPath
    return environment


class NixText(str):
    """Text that is Nix already."""


def _refuse_unfiltered(value: object) -> object:
    if not isinstance(value, NixText):
        raise TypeError(f"a template wrote {value!r} without the nix filter")
    return value


def _obsolete(rendered: Path, files: Mapping[Path, str]) -> tuple[Path, ...]:
    return tuple(
        path
        for path in sorted(rendered.rglob("*.nix"))
        if path not in files and MARK in (_read(path) or "").split("\n", 1)[0]
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
