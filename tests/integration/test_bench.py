"""Proves that each benchmark works, in its quick form, and leaves nothing behind."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from smallkube.core.workspace import REPOSITORY

sys.path.append(str(REPOSITORY))  # the benchmarks are not installed

from bench.__main__ import BENCHMARKS
from bench.harness import QUICK


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_works(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    needs: Callable[[str, object, str], None],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = list(BENCHMARKS[name](QUICK))
    said = capsys.readouterr().err
    needs("integration", "not measured" not in said, said.strip())
    assert rows and all(row.ours > 0 for row in rows)
    assert list(tmp_path.iterdir()) == []
