"""Inventory → ``nix/flake.nix`` and ``nix/rendered/``: thin leaves; the modules themselves are hand-written."""

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from smallkube.core.files import diff, write_files
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory
from smallkube.nix.literal import NixPath, literal
from smallkube.secrets import identities, people, policy

MARK = "Rendered from inventory.yaml by `inv nix.render`"
"""Stands in the first line of every rendered file; only files that carry it are ever removed."""


@dataclass(frozen=True)
class Plan:
    """What rendering would do: ``files`` with their new content, ``obsolete`` ones that no node needs."""

    files: dict[Path, str]
    obsolete: tuple[Path, ...]

    @property
    def changed(self) -> tuple[Path, ...]:
        """The files whose content on disk differs from the plan, obsolete ones included."""
        return (*(path for path, text in self.files.items() if _read(path) != text), *self.obsolete)

    def diff(self, root: Path) -> str:
        """The change as a unified diff, with paths relative to ``root``."""
        return "".join(
            diff(str(path.relative_to(root)), _read(path) or "", self.files.get(path, "")) for path in self.changed
        )

    def apply(self) -> None:
        """Write what differs and remove what is obsolete."""
        write_files({path: text.encode() for path, text in self.files.items()})
        for path in self.obsolete:
            path.unlink(missing_ok=True)


def plan(cluster: Cluster) -> Plan:
    """What ``nix/`` should hold for this inventory and the secrets that are there.

    The operator's own files (``nix/hosts/``) are only made where there is none.
    """
    workspace, inventory = cluster.workspace, cluster.inventory
    template, rendered = _templates(workspace.nix_sources("templates")), workspace.rendered_dir
    settings = inventory.cluster
    addons = [NixPath(f"../../{addon}") if addon in settings.addon_files else addon for addon in settings.addons]
    labels = {node.name: node.labels for node in inventory.nodes if node.labels}
    taints = {node.name: node.taints for node in inventory.nodes if node.taints is not None}
    marks = {"labels": labels, "taints": taints}
    files = {
        workspace.flake_file: template("flake", inventory=inventory),
        rendered / "cluster.nix": template("cluster", cluster=settings, addons=addons, **marks),
    }
    existing = frozenset(path.name for path in workspace.keys_dir.glob("*.*"))
    secrets = policy.secrets_by_node(inventory, existing)
    primary = {"token_users": _token_users(inventory, existing), "identities": _identities(cluster, existing)}
    for node in inventory.nodes:
        own = secrets[node.name].items()
        files[rendered / f"{node.name}.nix"] = template(
            "node",
            node=node,
            secret_files={name: NixPath(f"../../keys/{row.file}") for name, row in own},
            secret_access={name: access for name, row in own if (access := _access(row))},
            **(primary if node.role == "primary" else {}),
        )
        files[rendered / "channel" / f"{node.name}.nix"] = template("channel", node=node)
        if not (host := workspace.hosts_dir / f"{node.name}.nix").exists():
            files[host] = template("host", node=node, inventory=inventory)
    others = (path for path in sorted(rendered.rglob("*.nix")) if path not in files)
    return Plan(files, tuple(path for path in others if MARK in (_read(path) or "").split("\n", 1)[0]))


def _token_users(inventory: Inventory, existing: Collection[str]) -> list[dict[str, object]]:
    return [
        {"secret": row.name, "name": row.user.name, "groups": row.user.groups}
        for row in policy.expected(inventory, existing)
        if row.user and row.kind is policy.Kind.TOKEN and not row.version
    ]


def _identities(cluster: Cluster, existing: Collection[str]) -> list[dict[str, object]]:
    return [
        {"file": NixPath(f"../../keys/{leaf.file}"), "name": leaf.file, "user": leaf.user, "groups": leaf.groups}
        for leaf in identities.leaves(cluster.inventory, existing, people.accepted(cluster.workspace))
    ]


def _access(row: policy.Secret) -> dict[str, str]:
    """What differs from agenix's default, which is root's alone."""
    return {name: value for name, value in asdict(row.access).items() if value != getattr(policy.Access, name)}


class NixText(str):
    """Text that is Nix already."""


@cache
def _templates(folder: Path) -> Callable[..., str]:
    """Renders the template of this name; what it writes must have passed the filter ``nix``."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        autoescape=False,
        finalize=_refuse_unfiltered,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["nix"] = _nix
    environment.globals["mark"] = NixText(MARK)
    environment.globals["path"] = NixPath
    return lambda name, **values: environment.get_template(f"{name}.nix.j2").render(**values)


def _nix(value: object, indent: int = 0) -> NixText:
    """The filter: ``indent`` is that of the line in which the expression starts."""
    return NixText(literal(value).replace("\n", "\n" + " " * indent))


def _refuse_unfiltered(value: object) -> object:
    if not isinstance(value, NixText):
        raise TypeError(f"a template wrote {value!r} without the nix filter")
    return value


def _read(path: Path) -> str | None:
    return path.read_bytes().decode(errors="replace") if path.exists() else None
