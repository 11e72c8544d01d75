"""docs/inventory.md and docs/tasks.md are what is made from the models and the tasks, and these explain everything."""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from smallkube.core.workspace import REPOSITORY
from smallkube.inventory.load import json_schema, parse

sys.path.append(str(REPOSITORY))  # it is not installed

from docs import reference
from lab.tasks import collection
from smallkube.cli.app import tree
from smallkube.cli.arguments import with_default

NAMESPACE = tree(collection)
SCHEMA = json_schema()


def keys(definition: Mapping[str, Any], *path: str) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any], bool]]:
    """Each key below ``definition``: its path, what the schema has of it, and whether it may be left out."""
    if "$ref" in definition:
        definition = SCHEMA["$defs"][definition["$ref"].removeprefix("#/$defs/")]
    for name, key in definition.get("properties", {}).items():
        yield (*path, name), key, name not in definition.get("required", [])
        yield from keys(key, *path, name)
    for key in definition.get("patternProperties", {}).values():
        if path == ("nodes",):
            yield from keys(key, *path, "node2")


KEYS = {".".join(path): (path, key, optional) for path, key, optional in keys(SCHEMA)}


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_page_is_what_is_made(name: str) -> None:
    assert (REPOSITORY / name).read_text() == reference.PAGES[name](), "run make docs"


def test_every_key_is_looked_at() -> None:
    sections = {"cluster.api.port", "cluster.backup.keep.daily", "nodes.node2.ssh.become", "nodes.node2.peer_ip"}
    assert sections < KEYS.keys() and len(KEYS) > 50


@pytest.mark.parametrize("name", KEYS)
def test_a_key_has_description_default_and_example(name: str, tmp_path: Path) -> None:
    path, key, optional = KEYS[name]
    assert key["description"].endswith(".")
    assert not optional or "default" in key
    for value in key["examples"]:
        data: dict[str, Any] = {
            "cluster": {"name": "demo"},
            "nodes": {"node1": {"peer_ip": "192.0.2.1"}, "node2": {"peer_ip": "192.0.2.2"}},
        }
        place = data
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
        data["cluster"].setdefault("name", "demo")
        parse(yaml.safe_dump(data), tmp_path / "inventory.yaml")


def test_the_page_has_an_inventory_with_every_key(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", reference.inventory(), re.DOTALL)
    found = parse(text, tmp_path / "inventory.yaml")
    least = "cluster: {name: home}\nnodes: {node1: {peer_ip: 192.168.0.1}, node2: {peer_ip: 192.168.0.2}}\n"
    assert found == parse(least, tmp_path / "inventory.yaml")
    for name, (path, _, _) in KEYS.items():
        place = yaml.safe_load(text)
        for part in path:
            assert part in place, name
            place = place[part]


@pytest.mark.parametrize("name", NAMESPACE.task_names)
def test_help_says_the_default_of_each_flag(name: str) -> None:
    """A flag that is a filter says by its first word what there is without it."""
    for argument in NAMESPACE[name].get_arguments():
        if argument.takes_value and (not argument.positional or argument.kind is list):
            assert re.match("(only|also|skip) ", argument.help) or "default" in argument.help, argument.names
        if argument.kind in (str, int) and argument.default not in (None, ""):
            assert re.search(rf"\(.*default:? {re.escape(str(argument.default))}\b", argument.help), argument.names


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("seconds to wait", 10, "seconds to wait (default: 10)"),
        ("machines (1 to 254)", 2, "machines (1 to 254; default: 2)"),
        ("workers (0: all)", 0, "workers (default 0: all)"),
        ("a file (default: none)", None, "a file (default: none)"),
        ("port (default: 22)", 22, "port (default: 22)"),
        ("print JSON", False, "print JSON"),
        ("only these", [], "only these"),
    ],
)
def test_a_default_is_added_to_the_help(text: str, default: object, expected: str) -> None:
    assert with_default(text, default) == expected


def test_each_task_is_on_the_page() -> None:
    headings = re.findall(r"^### (\S+)$", reference.tasks(), re.MULTILINE)
    assert sorted(headings) == sorted({*NAMESPACE.task_names} - {"deploy.deploy"} | {"deploy"})
