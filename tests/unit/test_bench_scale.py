"""Proves what the bench with hollow nodes computes and writes; the measurement itself needs a lab."""

import sys

import pytest

from smallkube.core.workspace import REPOSITORY

sys.path.append(str(REPOSITORY))  # the benchmarks are not installed

from bench import scale


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_is_that_of_the_growth(power: float) -> None:
    assert scale.exponent([(size, 3 * size**power) for size in (2, 32, 254)]) == pytest.approx(power)


def test_one_value_has_no_exponent() -> None:
    assert scale.exponent([(2, 0), (32, 5)]) is None


def test_the_table_has_a_column_for_each_size() -> None:
    lines = scale.table({2: {"memory": 2.0}, 4: {"memory": 4.0, "failed": 0}})
    assert lines[-4:] == [
        "| nodes | 2 | 4 | exponent |",
        "|---|---|---|---|",
        "| memory | 2 | 4 | 1.00 |",
        "| failed |  | 0 |  |",
    ]


def test_other_sections_and_text_are_kept() -> None:
    text = scale.renewed("# Scale\n\n## Machines\n\nx\n", ["old"]) + "\nA remark.\n\n## Other\n"
    again = scale.renewed(text, ["new"])
    assert again == text.replace("old", "new")
    assert again.startswith("# Scale\n\n## Machines\n\nx\n\n## Kubernetes\n\n")
    assert again.count(scale.BEGIN) == again.count(scale.END) == 1
