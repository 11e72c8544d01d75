"""Machines that the previous version deployed are deployed to, rolled back and read by this one."""

import json
from collections.abc import Iterator

import pytest

from lab.places import Places
from tests import previous
from tests.lab.conftest import made
from tests.lab.operating import Operator


@pytest.fixture(scope="module")
def operator(places: Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Of two machines that run what the previous version deployed."""
    old = previous.extracted(tmp_path_factory.mktemp("previous"))
    with made(places, "previous", 2) as up:
        for words in (("keys.scan", "--yes"), ("keys.generate",), ("nix.render",), ("deploy",)):
            old.done(up.workspace, *words)
        yield Operator(up.lab, up.workspace)


def test_its_machines_take_the_next_version(operator: Operator) -> None:
    before = {node: operator.runs(node) for node in ("node1", "node2")}
    assert len(json.loads(operator.done("deploy.history", "--json"))) == 2
    for words in (("keys.generate",), ("nix.render",)):
        operator.done(*words)
    assert set(operator.outcomes().values()) == {"deployed"}
    assert {operator.leftovers(node) for node in before} == {""}
    operator.done("deploy.status")
    operator.done("deploy.rollback", "--node", "node2", "--yes")
    assert operator.runs("node2") == before["node2"]
    assert operator.outcomes()["node2"] == "deployed"
