"""Proves, by the test program's own list, that what keeps tests from passing in the lab is up to date."""

import os

import pytest

from lab import conformance_extended
from lab.conformance import PROGRAMS
from lab.conformance_run import SLICE
from lab.places import Places
from smallkube.conformance import catalogue
from smallkube.conformance.runner import Suite
from tests.conftest import require


@pytest.fixture(scope="module")
def suite() -> Suite:
    built = PROGRAMS.built(Places.find(os.environ).cache)
    require("cluster", built, "the conformance tests are not built (make conformance)")
    assert built is not None
    program = built / PROGRAMS.prefix / "bin/e2e.test"
    return Suite(program, program, program, "k8s.internal", 1)


def test_each_reason_is_that_of_some_test(suite: Suite) -> None:
    others = conformance_extended.others(suite.every(), suite.tests())
    rows = {conformance_extended.reason_row(name) for name in others}
    assert [row for row in conformance_extended.CANNOT_PASS if row not in rows] == []
    able = conformance_extended.possible(others)
    assert {catalogue.sig(name) for name in able} == set(conformance_extended.SIGS) and len(able) > 300


def test_the_slice_after_operations_has_its_sigs(suite: Suite) -> None:
    names = catalogue.select(suite.tests(), SLICE)
    assert {"sig-auth", "sig-network", "sig-storage"} <= {catalogue.sig(name) for name in names}
    assert len(names) < 30
