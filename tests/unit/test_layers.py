"""Proves that imports point one way only, that `inv --list` loads nothing heavy, and that only ui.py prints."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from smallkube.workspace import REPOSITORY

LAYERS = (
    ("errors", "process", "addressing", "workspace"),
    ("inventory", "inventory_yaml", "inventory_models", "inventory_rules", "inventory_edit"),
    ("secrets", "nix", "remote"),
    ("deploy", "nodes", "etcd", "smoke", "tokens", "trust", "issuer", "encryption", "doctor", "cluster", "recovery"),
    ("tasks",),
)
BESIDE = ("ui",)
HEAVY = ("fabric", "paramiko", "pyrage", "pydantic", "jinja2", "rich", "cryptography", "lab")


def layer(module: str) -> int:
    part = module.split(".")[1]
    return next(position for position, names in enumerate(LAYERS) if part in names)


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "smallkube":
            yield from (f"smallkube.{name.name}" for name in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("smallkube."):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("smallkube."))


def modules() -> Iterator[tuple[str, Path]]:
    for file in sorted((REPOSITORY / "smallkube").rglob("*.py")):
        name = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        if name != "smallkube":
            yield name, file


def test_no_import_runs_back_up() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, file in modules()
        if name.split(".")[1] not in BESIDE
        for imported in imports(file)
        if imported.split(".")[1] not in BESIDE and layer(imported) > layer(name)
    ]
    assert wrong == []


def test_only_tasks_use_the_user_interface() -> None:
    wrong = [name for name, file in modules() if layer_is_below_tasks(name) and "smallkube.ui" in set(imports(file))]
    assert wrong == []


def layer_is_below_tasks(name: str) -> bool:
    return name.split(".")[1] not in (*BESIDE, "tasks")


def test_the_list_of_tasks_loads_nothing_heavy() -> None:
    code = f"import tasks, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.strip() == "[]"
