"""Proves what the bench with hollow nodes computes and writes; the measurement itself needs a lab."""

import sys

from smallkube.core.workspace import REPOSITORY

sys.path.append(str(REPOSITORY))  # the benchmarks are not installed

from bench import scale


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
