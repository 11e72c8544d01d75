"""No module of the product is longer than 300 lines and no function longer than 40."""

import ast
from collections.abc import Iterator

from smallkube.core.workspace import REPOSITORY

MODULE_LINES = 300
FUNCTION_LINES = 40
NAME_LENGTH = 60


def too_long() -> Iterator[str]:
    for file in sorted((REPOSITORY / "smallkube").rglob("*.py")):
        name, text = str(file.relative_to(REPOSITORY)), file.read_text()
        if len(text.splitlines()) > MODULE_LINES:
            yield name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES:
                yield f"{name}:{node.name}"


def test_modules_and_functions_are_short() -> None:
    assert [*too_long()] == []


def test_names_of_tests_are_short() -> None:
    files = sorted((REPOSITORY / "tests").rglob("test_*.py"))
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    names = [node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    assert [name for name in names if len(name) > NAME_LENGTH] == []
