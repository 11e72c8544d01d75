"""Proves that imports point one way only, that `inv --list` loads nothing heavy, and that only ui.py prints."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from smallkube.core.workspace import REPOSITORY

ORDER = (
    *("core", "inventory", "secrets", "nix", "remote", "kube", "etcd", "deploy", "smoke", "conformance", "doctor"),
    *("operations", "cli"),
)
"""The packages from bottom to top: each may import those before it."""

HEAVY = ("fabric", "paramiko", "pyrage", "pydantic", "jinja2", "rich", "cryptography")

STREAMING = {
    *("smallkube.conformance.runner", "smallkube.etcd.ephemeral", "smallkube.nix.build", "smallkube.remote.local"),
    "smallkube.remote.openssh",
}
"""What runs programs that serve or are read while they run; core.process runs all others to their end."""

LAB_LISTED = {"lab", "lab.manifest"}
"""What the list of tasks needs of the lab."""

CLI_LISTED = {f"smallkube.cli{name}" for name in ("", ".app", ".manifest")}
"""And of the tasks of the product."""


@cache
def imports(file: Path) -> tuple[str, ...]:
    """The modules that ``file`` imports from, at any place in it; ``from package import name`` as package.name."""
    found: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            found += (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            found += (name.name for name in node.names)
    return tuple(found)


def modules() -> Iterator[tuple[str, Path]]:
    for file in sorted((REPOSITORY / "smallkube").rglob("*.py")):
        name = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        if name != "smallkube":
            yield name, file


def edges() -> Iterator[tuple[str, str]]:
    """Importing module, imported name; of smallkube only."""
    for name, file in modules():
        yield from ((name, imported) for imported in imports(file) if imported.startswith("smallkube."))


def package(name: str) -> str:
    return name.split(".")[1]


def test_every_package_has_its_place() -> None:
    assert {package(name) for name, _ in modules()} == set(ORDER)


def test_no_import_runs_up() -> None:
    own = "smallkube.__version__"
    place = {name: number for number, name in enumerate(ORDER)}
    wrong = [edge for edge in edges() if edge[1] != own and place[package(edge[1])] > place[package(edge[0])]]
    assert wrong == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = {name for name, _ in modules()}
    graph: dict[str, set[str]] = {name: set() for name in known}
    for name, imported in edges():
        target = imported if imported in known else imported.rpartition(".")[0]
        if target in known:
            graph[name].add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" → ".join(error.args[1])) from error


def test_nothing_in_the_product_imports_the_lab() -> None:
    wrong = [name for name, file in modules() if any(imported.split(".")[0] == "lab" for imported in imports(file))]
    assert wrong == []


def test_only_the_runner_and_named_streams_start_programs() -> None:
    found = {name for name, file in modules() if "subprocess" in {part.split(".")[0] for part in imports(file)}}
    assert found == {"smallkube.core.process", *STREAMING}


def test_only_tasks_use_the_user_interface() -> None:
    wrong = [name for name, imported in edges() if imported.startswith("smallkube.core.ui") and package(name) != "cli"]
    assert wrong == []


@cache
def loaded(code: str) -> set[str]:
    """The modules after ``code`` has run."""
    code += "; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    return set(done.stdout.split())


def test_the_list_of_tasks_imports_no_task() -> None:
    found = loaded("import tasks")
    assert {name for name in found if name.startswith("smallkube.cli")} == CLI_LISTED
    assert {name for name in found if name.split(".")[0] == "lab"} == LAB_LISTED


def test_no_module_with_tasks_loads_anything_heavy() -> None:
    assert loaded("import lab.tasks; from smallkube.cli.app import tree; tree()") & set(HEAVY) == set()
