"""The examples of docs/howto.md for nix/hosts evaluate with our modules."""

import re

import pytest

from smallkube.core.checks import Result
from smallkube.core.workspace import REPOSITORY

from .conftest import Build
from .test_check import HOST, checked, details, results

pytestmark = pytest.mark.integration

TEXT = (REPOSITORY / "docs/howto.md").read_text()
BLOCKS = re.findall(r"^```nix\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_an_example_evaluates(block: str, build: Build, store: str) -> None:
    checks = checked(build((1, 2)).with_file(HOST, f"{{\n{block}}}\n"))
    assert results(checks)["node2", "evaluation"] is not Result.FAILED, details(checks, "evaluation")
    assert results(checks)["node2", "assertions"] is Result.OK, details(checks, "assertions")


def test_every_example_is_tried() -> None:
    assert len(BLOCKS) == TEXT.count("```nix") == 4
