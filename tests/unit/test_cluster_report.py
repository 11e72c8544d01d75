"""``cluster.report``: what becomes a finding, what is on the page, and that no answer of a machine is interpreted."""

import json
import re
import subprocess
import time
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from smallkube.cli import app
from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import Workspace
from smallkube.etcd import drills
from smallkube.etcd.catalog import Catalog
from smallkube.etcd.drills import Drill
from smallkube.inventory import releases
from smallkube.kube import workloads
from smallkube.kube.workloads import Pod, Service
from smallkube.operations import report, report_page
from smallkube.operations.machines import SCRIPTS
from smallkube.operations.report import PROBLEM, WARNING, Finding, Link, Report, Usage, Version
from smallkube.operations.report_page import NARROW, WIDE, Size
from smallkube.remote import scripts
from smallkube.remote.fake import FakeHost, reply
from tests import report_sample
from tests.unit.test_answers import LOST, Fleet, fleet
from tests.unit.test_cluster_status import KEYS, inventory, state
from tests.unit.test_etcd_retention import START, record

__all__ = ["fleet"]
ATTACK = "<script>alert(1)</script>'\"&{{ 7 * 7 }}\x1b]0;x\x07\u202e"
COLLECTION = app.tree()


def texts(page: str) -> str:
    """What the page shows, as a browser's text."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.partition("<body>")[2]))


def test_page_has_every_part() -> None:
    found = report_sample.troubled()
    page = report_page.render(found)
    parts = ("findings", "topology", "nodes", "backups", "versions", "services", "credentials", "deploys")
    assert re.findall(r'<section id="(\w+)"', page) == [*parts]
    shown = texts(page)
    for each in found.findings:
        assert each.text in shown
        assert f"<code>{each.command}</code>" in page
    expected = (
        *(node.name for node in found.nodes),
        *("no handshake", "88.1 ms, 2/8 lost", "66 min", "cordoned", "drift", "7.3 GiB of 7.6 GiB", "damaged"),
        *("until 2026-12-31", "8 d left", "overlap", "2026-11-24 12:00, 4 s", "rolled back", "30080, 30443"),
    )
    assert [word for word in expected if word not in shown] == []


def test_page_of_a_cluster_that_does_not_answer() -> None:
    shown = texts(report_page.render(report_sample.empty()))
    for word in ("no answer", "pods not known", "Services could not be listed", "No backup", "not known", "1 problem"):
        assert word in shown


def test_page_needs_nothing_else() -> None:
    page = report_page.render(report_sample.healthy())
    assert re.findall(r"<script|https?://|url\(|@import|<img", page) == []
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert 'http-equiv="refresh"' not in page
    assert '<meta http-equiv="refresh" content="30">' in report_page.render(report_sample.healthy(), 30)


def test_answers_are_shown_as_text() -> None:
    page = report_page.render(report_sample.with_text(report_sample.troubled(), ATTACK))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    assert set(page) & {"\x1b", "\x07", "\u202e"} == set()
    clean = report_page.render(report_sample.troubled())
    assert re.findall(r"<(\w+)", page).count("section") == re.findall(r"<(\w+)", clean).count("section")


def test_long_answers_are_cut() -> None:
    found = report_sample.with_text(report_sample.healthy(), "x" * 100_000)
    assert len(report_page.render(found)) < 1_000_000


@pytest.mark.parametrize("size", [WIDE, NARROW])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 30, 254])
def test_nodes_are_inside_the_picture(count: int, size: Size) -> None:
    picture = report_page.picture(report_sample.healthy(count), size)
    assert len(picture.spots) == count
    half = [length / 2 if picture.cards else 9 for length in size.card]
    for spot in picture.spots:
        assert half[0] <= spot.x <= size.width - half[0]
        assert half[1] <= spot.y <= picture.below - half[1]
    if picture.cards:
        places = [(spot.x, spot.y) for spot in picture.spots]
        for position, (x, y) in enumerate(places):
            others = places[position + 1 :]
            assert all(abs(x - a) >= size.card[0] or abs(y - b) >= size.card[1] for a, b in others)
    assert all(chip.x + chip.width <= size.width for chip in picture.chips)


def test_many_links_are_drawn_only_where_bad() -> None:
    found = report_sample.healthy(30)
    bad = replace(found.links[7], state="down")
    picture = report_page.picture(replace(found, links=(*found.links[:7], bad, *found.links[8:])), WIDE)
    assert [line.link for line in picture.lines] == [bad]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Link(("node1", "node2"), 10, 1.5, 0, 4, "ok")),
        ({"handshakes": {"KEY1": 999_000}}, Link(("node1", "node2"), 1000, 1.5, 0, 4, "down")),
        ({"handshakes": {}}, Link(("node1", "node2"), None, 1.5, 0, 4, "down")),
        ({"mtu": {"10.88.1.1": 1.7}}, Link(("node1", "node2"), 10, 1.5, 1, 4, "lossy")),
        ({"ping": {}, "mtu": {}}, Link(("node1", "node2"), 10, None, 4, 4, "down")),
    ],
)
def test_links_by_the_answer_of_one_end(changes: dict[str, object], expected: Link) -> None:
    assert [*report.links(inventory(), {"node2": state(**changes).facts}, KEYS)] == [expected]  # type: ignore[arg-type]


def test_link_between_silent_nodes_is_unknown() -> None:
    assert [*report.links(inventory(), {}, KEYS)] == [Link(("node1", "node2"), None, None, 0, 0, "unknown")]


@pytest.mark.parametrize(
    ("line", "subject", "text", "command"),
    [
        ("node2: wgkube: node1: no handshake", "node2", "wgkube: node1: no handshake", "inv net.check --node node2"),
        (
            "node2: system: nothing was ever deployed",
            "node2",
            "system: nothing was ever deployed",
            "inv deploy --node node2",
        ),
        ("node2: is NotReady", "node2", "is NotReady", "inv deploy.status --node node2"),
        ("alarm NOSPACE", "", "alarm NOSPACE", "inv etcd.status"),
        ("the API server does not answer", "", "the API server does not answer", "inv deploy.status --node node1"),
        ("keys/a.crt: missing (inv keys.generate)", "", "keys/a.crt: missing", "inv keys.generate"),
        ("no signed backup found (inv etcd.backup)", "", "no signed backup found", "inv etcd.backup"),
        (
            "node1 has newer keys than this workspace (git pull)",
            "",
            "node1 has newer keys than this workspace",
            "git pull",
        ),
        ("x (y) is strange", "", "x (y) is strange", ""),
    ],
)
def test_problems_have_commands(line: str, subject: str, text: str, command: str) -> None:
    assert report.finding(PROBLEM, line, ("node1", "node2"), "node1") == Finding(PROBLEM, subject, text, command)


def test_hint_of_an_unreachable_machine_is_its_command() -> None:
    found = report.unanswered("node2", "its host key is unknown", "compare it: inv keys.scan --node node2, then retry")
    assert found.command == "inv keys.scan --node node2"
    assert report.unanswered("node2", "timed out", None).command == "inv deploy.status --node node2"


def test_end_of_support_is_a_warning() -> None:
    days = {61: 0, 60: 1, -1: 1}
    for left, count in days.items():
        assert len([*report.of_versions([Version("NixOS", "26.05", "", "2026-12-31", left)])]) == count
    assert {*releases.RELEASES, *releases.MINORS} == set(releases.END_OF_SUPPORT)


def test_full_disks_and_pods_not_ready_are_warnings() -> None:
    use = Usage(1, 0.0, 1000, 99, 1000, 100, 1000, 0, 1)
    found = [*report.of_machines([report_sample.machine(2, usage=use, bad_pods=1), report_sample.machine(1)])]
    assert [each.text.split(":")[0] for each in found] == ["memory", "/var/lib", "1 of 10 pods are not ready"]
    assert {(each.severity, each.subject) for each in found} == {(WARNING, "node2")}


def test_backups_without_a_recent_drill() -> None:
    good = report_sample.backup(1, drill=Drill("2026-11-01T00:00:00Z", 1.0))
    assert [*report.of_backups([good], date(2026, 12, 6))] == []
    assert [each.text for each in report.of_backups([good], date(2026, 12, 7))] == [
        "no backup was restored in a drill since 2026-11-01"
    ]
    failed = report_sample.backup(1, drill=Drill("2026-11-01T00:00:00Z", 1.0, "keys: 1 of 2"), fault="damaged")
    assert [each.command.split(" --")[0] for each in report.of_backups([failed], date(2026, 11, 2))] == [
        "inv etcd.backup",
        "inv etcd.drill",
        "inv etcd.drill",
    ]


def test_results_of_drills_are_kept(tmp_path: Path) -> None:
    workspace, old, new = Workspace(tmp_path), record(1, START), record(2, START)
    drills.note(workspace, Catalog(tmp_path, (old,), {}), old.name, Drill("2026-11-01T00:00:00Z", 1.5))
    result = Drill("2026-11-02T00:00:00Z", 2.5, "bad")
    drills.note(workspace, Catalog(tmp_path, (old, new), {}), new.name, result)
    assert [*drills.read(workspace)] == [old.name, new.name]
    drills.note(workspace, Catalog(tmp_path, (new,), {}), new.name, result)
    assert drills.read(workspace) == {new.name: result}


def test_pods_and_services_are_read() -> None:
    lines = "node1.x Running True shop web-1\n<none> Pending <none> shop web-2\nnode1.x Succeeded False shop job-1\n"
    found = workloads.pods(FakeHost(inventory().primary, lambda _: reply(lines)))
    assert found[0] == Pod("node1.x", "Running", True, "shop", "web-1")
    assert [(pod.node, pod.bad) for pod in found] == [("node1.x", False), ("", True), ("node1.x", False)]
    line = "NodePort 10.88.0.7,fd88::7 80,443 30080,30443 shop web\n"
    assert workloads.services(FakeHost(inventory().primary, lambda _: reply(line))) == (
        Service("NodePort", "10.88.0.7,fd88::7", "80,443", "30080,30443", "shop", "web"),
    )
    with pytest.raises(SmallkubeError, match="unexpected output from kubectl get pods"):
        workloads.pods(FakeHost(inventory().primary, lambda _: reply("one two\n")))


def test_usage_of_this_machine_is_read() -> None:
    text = SCRIPTS.text("usage").replace("/nix/store", "/")
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True)
    found = scripts.parse(done.stdout, Usage, "usage", "here")
    assert found.memory > found.memory_free > 0
    assert found.store > 0


def run(**flags: object) -> None:
    COLLECTION["cluster.report"](Context(), **flags)


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "workspace/.smallkube"


def test_page_is_written_and_json_printed(inside: Path, fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    assert "node2" in texts((inside / "report.html").read_text())
    assert capsys.readouterr().out.startswith(f"{inside}/report.html: test, ")
    (inside / "report.html").unlink()
    run(json=True)
    found = json.loads(capsys.readouterr().out)
    assert {*found} == {*Report.__dataclass_fields__}
    assert [(node["name"], node["pods"], node["bad_pods"]) for node in found["nodes"]] == [
        ("node1", 0, 0),
        ("node2", 1, 0),
    ]
    assert found["nodes"][1]["usage"]["cpus"] == 2
    assert not (inside / "report.html").exists()
    run(json=True, out="both.html")
    assert Path("both.html").is_file()


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_silent_machine_is_a_finding(node: str, inside: Path, fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.broken, fleet.answer, fleet.text = node, "facts", LOST
    run(json=True, out="page.html")
    found = json.loads(capsys.readouterr().out)
    assert found["findings"][0] == {
        "severity": PROBLEM,
        "subject": node,
        "text": f"does not answer: {LOST}",
        "command": f"inv deploy.status --node {node}",
    }
    assert [each["name"] for each in found["nodes"] if not each["answers"]] == [node]
    assert (found["api"] == "") == (node == "node1")
    assert "no answer" in texts(Path("page.html").read_text())


def test_watch_writes_again_until_interrupted(inside: Path, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    times, short = list[int](), time.sleep

    def sleep(seconds: float) -> None:
        if seconds < 20:  # programs are waited for, too
            short(seconds)
            return
        times.append((inside / "report.html").stat().st_ino)
        if len(times) == 2:
            raise KeyboardInterrupt
        (inside / "report.html").write_text("old")

    monkeypatch.setattr("time.sleep", sleep)
    run(watch=30)
    assert len({*times}) == 2
    assert 'content="30"' in (inside / "report.html").read_text()


def test_out_must_not_be_a_folder(inside: Path, fleet: Fleet) -> None:
    with pytest.raises(Exit, match="is a folder") as end:
        run(out=str(inside.parent))
    assert end.value.code == 2


def test_ages_and_sizes_are_short() -> None:
    assert [report_page.ago(each) for each in (0, 119, 120, 7199, 7200, 172_800)] == [
        *("0 s", "119 s", "2 min", "119 min", "2 h", "2 d")
    ]
    assert [report_page.size(each) for each in (9, 1536, 14 << 20, 1 << 50)] == ["9 B", "1.5 KiB", "14 MiB", "1024 TiB"]
    assert datetime.fromisoformat(report_sample.stamp()).tzinfo == UTC
