"""`make docs`: docs/inventory.md from the JSON Schema of inventory.yaml; docs/tasks.md from the tasks, and of each its
module and line, which `inv --list` shows without importing it (smallkube/cli/manifest.py, lab/manifest.py)."""

import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import yaml
from invoke.collection import Collection
from invoke.parser.argument import Argument

from lab.tasks import collection as lab
from smallkube.cli.app import NAMESPACES, lines, tree
from smallkube.cli.context import COMMON
from smallkube.core.files import write_file
from smallkube.core.workspace import REPOSITORY
from smallkube.inventory.load import json_schema

WIDTH = 120
MADE = "<!-- Made by `make docs`; edits are overwritten. -->"

Schema = Mapping[str, Any]


def _filled(text: str, indent: str = "", first: str | None = None) -> str:
    return textwrap.fill(
        " ".join(text.split()),
        WIDTH,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def inventory() -> str:
    """docs/inventory.md: each key with what it means, its values, default and example."""
    schema = json_schema()
    parts = [
        "# inventory.yaml",
        MADE,
        _filled(
            "All but `cluster.name` and the `peer_ip` of each node has a default. `inv inventory.check` validates the"
            " file and reports each problem with line and key. `inv inventory.schema` prints the JSON Schema, of which"
            " this page is made; editors with the YAML language server use it for completion. What a change of a value"
            " needs on a running cluster:"
            " [Change a value of a running cluster](operating.md#change-a-value-of-a-running-cluster)."
        ),
        "With all defaults, of two nodes:",
        f"```yaml\n{_dumped(_defaults(schema), flow=None)}```",
    ]
    parts += _section(schema, "cluster", _definition(schema, schema["properties"]["cluster"]))
    nodes = schema["properties"]["nodes"]
    (node,) = nodes["patternProperties"].values()
    parts += _section(schema, "nodes.NODE", _definition(schema, node), nodes["description"])
    return "\n\n".join(parts) + "\n"


def _definition(schema: Schema, reference: Schema) -> Schema:
    found: Schema = schema["$defs"][reference["$ref"].rpartition("/")[2]]
    return found


def _defaults(schema: Schema) -> Schema:
    """An inventory that says everything."""

    def of(definition: Schema, required: Schema) -> dict[str, Any]:
        return {name: required.get(name, each.get("default")) for name, each in definition["properties"].items()}

    (node,) = schema["properties"]["nodes"]["patternProperties"].values()
    given = schema["properties"]["nodes"]["examples"][0]
    nodes = {name: of(_definition(schema, node), value) for name, value in given.items()}
    for name, value in nodes.items():
        value["ssh"] = {**value["ssh"], "host": given[name]["peer_ip"]}
    return {"cluster": of(_definition(schema, schema["properties"]["cluster"]), {"name": "home"}), "nodes": nodes}


def _section(schema: Schema, path: str, definition: Schema, text: str = "") -> Iterator[str]:
    """A heading, its keys, and a section for each that is a mapping of keys."""
    yield f"## {path}"
    yield _filled(text or definition["description"])
    required = definition.get("required", [])
    yield "\n".join(_key(name, key, name in required) for name, key in definition["properties"].items())
    for name, key in definition["properties"].items():
        if "$ref" in key:
            yield from _section(schema, f"{path}.{name}", _definition(schema, key))


def _key(name: str, key: Schema, required: bool) -> str:
    (example,) = key["examples"]
    form = _form(key)
    default = "required" if required else f"default `{_flow(key['default'])}`"
    if "$ref" in key:
        default = "see below"
    lines = [_filled(f"**`{name}`**: {key['description']}", "  ", "- ")]
    lines.append(_filled(f"{form[:1].upper()}{form[1:]}; {default}. Example: `{_yaml({name: example})}`", "  "))
    return "\n".join(lines)


def _form(key: Schema) -> str:
    """The values that a key may have, in words."""
    if "anyOf" in key:
        return " or ".join("`null`" if each.get("type") == "null" else _form(each) for each in key["anyOf"])
    if "enum" in key:
        return " or ".join(f"`{value}`" for value in key["enum"])
    match key.get("type"):
        case "integer":
            return f"number from {key['minimum']} to {key['maximum']}"
        case "array":
            return re.sub("^list of (list|number)", r"list of \1s", f"list of {_form(key['items'])}")
        case "boolean":
            return "`true` or `false`"
        case "string":
            return "text"
        case _:
            return "mapping"


def _yaml(value: Any) -> str:
    """A value on one line; JSON is YAML, and keys need no quotes."""
    if isinstance(value, dict):
        inner = ", ".join(f"{name}: {_flow(each)}" for name, each in value.items())
        return inner if len(value) == 1 else f"{{{inner}}}"
    return _flow(value)


def _flow(value: Any) -> str:
    return _dumped(value, flow=True).removesuffix("...\n").strip()


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _dumped(value: Any, flow: bool | None) -> str:
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=flow, sort_keys=False, width=10_000)
    return text


def tasks() -> str:
    """docs/tasks.md: each task with its docstring and flags, by namespace."""
    root = tree(lab)
    parts = [
        "# The tasks",
        MADE,
        _filled(
            "What `inv --help TASK` shows, for all tasks. A flag without a value is off; `--[no-]FLAG` is on, off by"
            " `--no-FLAG`. Exit statuses and files: [operating.md](operating.md#files-logs-and-exit-statuses)."
        ),
        "## Flags of many tasks",
        _table([(f"--{name}", text) for name, text in COMMON.items()]),
        "## Tasks without a namespace",
    ]
    for task in sorted(root.tasks.values(), key=lambda task: str(task.name)):
        parts += _task(root, str(task.name))
    for namespace in (*filter(None, NAMESPACES), "lab"):
        parts.append(f"## {namespace}")
        names = root.collections[namespace].task_names
        for name in names:
            parts += _task(root, namespace if name == namespace else f"{namespace}.{name}")
    return "\n\n".join(parts) + "\n"


def _task(root: Collection, name: str) -> Iterator[str]:
    task = root[name]
    arguments = task.get_arguments()
    own = [each for each in arguments if COMMON.get(each.names[0]) != each.help]
    words = [each for each in own if _is_word(each)]
    yield f"### {name}"
    yield f"`inv {' '.join([name, *(each.names[0].upper() for each in words), '[flags]'])}`"
    for paragraph in re.split(r"\n\s*\n", task.__doc__ or ""):
        yield from _paragraph([line.strip() for line in paragraph.strip().splitlines()])
    rows = [(each.names[0].upper() if _is_word(each) else _flag(each), each.help) for each in own]
    if rows:
        yield _table(rows)
    if shared := [f"`--{each.names[0]}`" for each in arguments if each not in own]:
        yield _filled(f"Also: {', '.join(shared)}.")


def _is_word(argument: Argument) -> bool:
    """Whether it is given without its name: `inv users.add NAME`."""
    return bool(argument.positional) and argument.kind is not list


def _flag(argument: Argument) -> str:
    first, *letters = argument.names
    first = first.replace("_", "-")
    words = [f"--[no-]{first}" if argument.default is True else f"--{first}", *(f"-{letter}" for letter in letters)]
    return ", ".join(words)


def _paragraph(lines: list[str]) -> Iterator[str]:
    """Text, and what is to be typed."""
    commands = [line for line in lines if line.startswith("inv ")]
    text = " ".join(line for line in lines if line not in commands)
    yield _filled(_escaped(text))
    if commands:
        yield "```sh\n" + "\n".join(commands) + "\n```"


def _escaped(text: str) -> str:
    return re.sub(r"([|*<])", r"\\\1", text)


def _table(rows: list[tuple[str, str]]) -> str:
    lines = [f"| `{name}` | {_escaped(text)} |" for name, text in rows]
    return "\n".join(["| | |", "|---|---|", *lines])


def manifest(package: str) -> str:
    """The module with ``app.Lines`` of the tasks of ``package``."""
    entries = [
        f"    {json.dumps(module)}: {{\n"
        + "".join(f"        {json.dumps(name)}: {json.dumps(text)},\n" for name, text in tasks.items())
        + "    },\n"
        for module, tasks in lines(tree(lab), package).items()
    ]
    head = '"""Each task by its module, with its line in `inv --list`. Made by `make docs`; edits are overwritten."""'
    return f"{head}\n\nLINES = {{\n{''.join(entries)}}}\n"


PAGES: Mapping[str, Callable[[], str]] = {
    "docs/inventory.md": inventory,
    "docs/tasks.md": tasks,
    "smallkube/cli/manifest.py": partial(manifest, "smallkube"),
    "lab/manifest.py": partial(manifest, "lab"),
}
"""File in the repository → its text."""

if __name__ == "__main__":
    for file, page in PAGES.items():
        write_file(REPOSITORY / file, page())
