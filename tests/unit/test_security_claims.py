"""Each test that docs/security.md names exists, and nothing is called impossible there without one."""

import ast
import re
from functools import cache
from pathlib import Path

from smallkube.core.workspace import REPOSITORY

TEXT = (REPOSITORY / "docs/security.md").read_text()
MODEL = TEXT.partition("\n## Threat model\n")[2].partition("\n## ")[0]
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
PARTIES = {
    "A worker",
    "The primary",
    "The operator's machine",
    "A removed administrator",
    "The git host",
    "The backup host",
    "A neighbour on the LAN",
    "A pod",
}


@cache
def functions(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_the_tests_that_are_named_exist() -> None:
    named = NAMED.findall(TEXT)
    assert len(named) > 30
    missing = [f"{file}::{name}" for file, name in named if name not in functions(REPOSITORY / "tests" / file)]
    assert missing == []
    assert TEXT.count(".py::") == len(named), "a name that is not written as `path::name`"


def test_each_party_has_what_it_can_and_cannot_do() -> None:
    parts = dict(part.split("\n", 1) for part in MODEL.split("\n### ")[1:])
    assert set(parts) == PARTIES
    assert [party for party, text in parts.items() if "\nCan:\n" not in text or "\nCannot:\n" not in text] == []


def test_each_protection_names_its_test() -> None:
    for title in ("Connections to the nodes", "On the nodes"):
        text = TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        claims = re.findall(r"^- ((?:.+\n)(?:  .+\n)*)", text, re.MULTILINE)
        assert len(claims) > 3
        assert [claim for claim in claims if not NAMED.search(claim)] == []


def test_nothing_is_impossible_without_a_test() -> None:
    claims = [
        claim
        for part in MODEL.split("\nCannot:\n")[1:]
        for claim in re.findall(
            r"^- ((?:.+\n)(?:  .+\n)*)", part.partition("\n### ")[0].partition("\nA ")[0], re.MULTILINE
        )
    ]
    assert len(claims) > 20
    assert [claim for claim in claims if not NAMED.search(claim)] == []
