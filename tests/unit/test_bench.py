"""Proves that the benchmarks' harness compares fairly, survives a benchmark that fails, and leaves nothing behind."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import REPOSITORY
from smallkube.inventory.load import parse
from smallkube.operations.cluster_facts import Running, Use

sys.path.append(str(REPOSITORY))  # the benchmarks are not installed

from bench import __main__ as program
from bench import footprint, harness, ready
from bench.harness import FULL, PREFIX, QUICK, Plan, Row, absent, command, compare, measure, scratch

ROW = Row("work", 1.5, "theirs", 3.0, "a goal", ((1.0, 2.0), (3.0, 3.0)))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> dict[str, harness.Benchmark]:
    """Those that ``python -m bench`` runs: two that work."""
    made: dict[str, harness.Benchmark] = {"first": lambda _: iter([ROW]), "last": lambda _: iter([ROW])}
    monkeypatch.setattr(program, "BENCHMARKS", made)
    return made


def broken(_: Plan) -> Iterator[Row]:
    yield ROW
    raise SmallkubeError("it broke", where="here")


@pytest.mark.parametrize(("plan", "rounds"), [(FULL, 6), (QUICK, 1)], ids=["full", "quick"])
def test_both_sides_run_alternately(plan: Plan, rounds: int) -> None:
    runs: list[str] = []
    row = compare(plan, "x", lambda: runs.append("ours"), "y", lambda: runs.append("theirs"))
    assert runs == ["ours", "theirs"] * rounds
    assert row.theirs is not None


def test_a_row_without_the_other_side_has_no_ratio() -> None:
    assert (ROW.ratio, compare(QUICK, "x", lambda: None).ratio) == ("0.50", "")


def test_a_failing_benchmark_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    rows, failed = measure({"bad": broken, "good": lambda _: iter([ROW])}, QUICK)
    assert (rows, failed) == ({"bad": [ROW], "good": [ROW]}, ["bad"])
    assert "bad failed: here: it broke" in capsys.readouterr().err.splitlines()


def test_a_failing_command_is_one_line() -> None:
    with pytest.raises(SmallkubeError, match="sh: exit status 3: last") as caught:
        command(["sh", "-c", "echo first >&2; echo last >&2; exit 3"])()
    assert "\n" not in str(caught.value)


def test_a_missing_program_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert not absent("work", "sh")
    assert capsys.readouterr().err == ""
    assert absent("work", "sh", "no-such-program")
    assert capsys.readouterr().err == "warning: work is not measured: no-such-program not found\n"


def test_the_full_form_states_goals(benchmarks: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([]) == 0
    out = capsys.readouterr().out
    assert ("a goal" in out, "not a measurement" in out) == (True, False)


def test_the_quick_form_says_it_measures_nothing(benchmarks: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--quick"]) == 0
    out = capsys.readouterr().out
    assert ("a goal" in out, "not a measurement" in out) == (False, True)


def test_a_failing_benchmark_is_status_1(
    benchmarks: dict[str, harness.Benchmark], capsys: pytest.CaptureFixture[str]
) -> None:
    benchmarks["bad"] = broken
    assert program.main(["--quick"]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("0.50") == 3
    assert captured.err.splitlines()[-1] == "failed: bad"


@pytest.mark.parametrize("arguments", [["--fast"], ["nonsense"], ["--quic"]])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(arguments)
    assert ended.value.code == 2


def test_only_named_benchmarks_run(benchmarks: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["last"]) == 0
    assert capsys.readouterr().err.count("measured: ") == 1


def test_what_takes_long_runs_when_it_is_named(benchmarks: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "ON_REQUEST", {"long": broken})
    assert (program.main(["--quick"]), program.main(["--quick", "long"])) == (0, 1)


def test_a_footprint_is_of_intervals_by_role_and_service(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = "".join(f"  node{n}: {{peer_ip: 192.0.2.{n}, size: small}}\n" for n in (1, 2, 3))
    inventory = parse(f"cluster: {{name: test}}\nnodes:\n{nodes}", Path("inventory.yaml"))
    asked = iter(range(9))

    def ask(*_: object) -> dict[str, Running]:
        time = next(asked)
        kubelet = Use(80 << 10, 20 << 10, 1000 + 50 * time, 9000 + 1000 * time)
        uses = {"kubelet": kubelet, "crio": Use(2048, 1024, 0, time)}
        return {node.name: Running("6", {}, uses) for node in inventory.nodes}

    monkeypatch.setattr(footprint, "ask", ask)
    found = footprint.measured(inventory, None, 2, 0)  # type: ignore[arg-type]
    assert found[0]["small worker", "kubelet"] == [80] * 4
    assert (found[1]["small primary", "all services"], found[2]["small primary", "all services"]) == ([21, 21], [5, 5])
    lines = list(footprint.table(QUICK, *found))
    assert [line.work for line in lines if line.goal] == [
        "small primary, all services: MiB resident, of it 21 not of files",
        "small primary, all services: percent of a core",
        "small worker, all services: MiB resident, of it 21 not of files",
        "small worker, all services: percent of a core",
    ]
    assert (lines[0].ours, lines[0].theirs, lines[1].ours, lines[1].theirs) == (82, 1428, 5, 5)


def test_results_renew_their_section(benchmarks: object, tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    file.write_text("# Results\n\nA note.\n\n## first\n\nold\n\n## first of all\n\nkept\n")
    assert program.main(["--output", str(file), "first"]) == 0
    text = file.read_text()
    assert text.startswith("# Results\n\nA note.\n\n## first of all\n\nkept\n\n## first\n\n") and "old" not in text
    assert "| work | 1.500 (1.000 to 2.000) | theirs | 3.000 (3.000 to 3.000) | 0.50 | 1 | a goal |" in text
    assert program.main(["--output", str(file), "--quick"]) == 0
    assert file.read_text() == text


def test_growth_is_the_power_of_the_number_of_machines(benchmarks: object, tmp_path: Path, monkeypatch: Any) -> None:
    grown = [
        Row("task", size**2 / 10, "", None, "", ((1, 2),), 1.0, 1, size, (size / 10,), (60,)) for size in (8, 32, 254)
    ]
    monkeypatch.setattr(program, "BENCHMARKS", {"machines": lambda _: iter(grown)})
    file, other = tmp_path / "scale.md", tmp_path / "RESULTS.md"
    file.write_text("# Scale\n\n## Kubernetes\n\nkept\n\n## Machines\n\nold\n")
    assert program.main(["--scale", str(file), "--output", str(other)]) == 0
    text = file.read_text()
    assert text.startswith("# Scale\n\n## Kubernetes\n\nkept\n\n## Machines\n\n") and "old" not in text
    assert (
        "| `task` | 1 | 6.4, 0.80, 60 | 102.4, 3.20, 60 | 6451.6, 25.40, 60 | 2.00 (2.00), 1.00 (1.00), 0.00 (0.00) |"
        in text
    )
    assert not other.exists()


def test_temporary_files_are_gone_at_the_end(temporary: Path) -> None:
    before = os.environ.get("TMPDIR")
    with pytest.raises(KeyboardInterrupt), scratch():
        own = Path(tempfile.mkdtemp())
        assert own.parent.parent == temporary
        assert os.environ["TMPDIR"] == str(own.parent)
        raise KeyboardInterrupt
    assert list(temporary.iterdir()) == []
    assert (tempfile.gettempdir(), os.environ.get("TMPDIR")) == (str(temporary), before)


def test_leftovers_are_removed_unless_in_use(temporary: Path) -> None:
    waits = "from bench.harness import scratch\nwith scratch(): print(flush=True); input()"
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(REPOSITORY)}
    argv, pipe = [sys.executable, "-c", waits], subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, env=environment, text=True) as other:
        assert other.stdout and other.stdin
        other.stdout.readline()
        (used,) = temporary.iterdir()
        (temporary / f"{PREFIX}killed" / "deep").mkdir(parents=True)
        (temporary / "of-others").mkdir()
        with scratch():
            assert {path.name for path in temporary.iterdir() if path.name != Path(tempfile.gettempdir()).name} == {
                used.name,
                "of-others",
            }
        other.kill()
    with scratch():
        assert not used.exists()
    assert [path.name for path in temporary.iterdir()] == ["of-others"]


def test_what_is_ready_first_is_told_by_neighbouring_runs() -> None:
    taken = [((10.0, 8.0), (20.0, 4.0)), ((30.0, 9.0), (40.0, 3.0)), ((40.0, 6.0), (80.0, 4.0))]
    whole, used, *parts = ready.table(taken, [[1, 2, 3, 4], [3, 2, 1, 4], [2, 2, 2, 4]])
    assert (whole.ours, whole.theirs, whole.ratio, whole.runs) == (30, 40, "0.50", 3)
    assert (used.ours, used.theirs, used.ratio) == (8, 4, "2.00")
    assert [(part.ours, part.spreads) for part in parts][::3] == [(2, ((1, 3),)), (4, ((4, 4),))]


def test_without_kubernetes_for_the_lab_nothing_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert not list(ready.rows(QUICK)) and not list(tmp_path.iterdir())
    assert "warning: ready is not measured: it needs root, and Kubernetes" in capsys.readouterr().err
