"""Proves how conformance tests are chosen, how their outcomes are read from what the program prints, and the report."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lab import conformance, conformance_extended, conformance_run
from lab.cluster import Lab
from lab.places import Places
from lab.workspace import inventory
from smallkube.cli.context import Current
from smallkube.conformance import catalogue, outcome, report
from smallkube.conformance.catalogue import Group
from smallkube.conformance.outcome import FAILED, PASSED, SKIPPED, Outcome, Reader
from smallkube.conformance.record import Record, Run
from smallkube.conformance.runner import Suite
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory.load import load

AUTH = "[sig-auth] Tokens should be mounted [Conformance]"
LONGER = "[sig-auth] Tokens should be mounted [Conformance] twice"
TAINTS = "[sig-node] Taints removing one cancels eviction [Disruptive] [Conformance]"
JOBS = "[sig-apps] CronJob should not run jobs when suspended [Serial] [Slow] [Conformance]"
NAMES = (TAINTS, JOBS, AUTH)
RUN = Run("v1.34.2", "v1.34.2", 3, "cri-o://1.34.0", "2026-11-26T18:00:00+00:00")
DASHES = "-" * 30


def outcomes(text: str, *names: str) -> list[Outcome]:
    reader = Reader(names)
    found = [reader.feed(line) for line in text.splitlines()]
    return [each for each in (*found, reader.end()) if each]


def test_the_catalogue_has_each_name_once_and_on_one_line() -> None:
    folded = AUTH.replace("be mounted", "be\n    mounted")
    listed = f"- testname: A\n  codename: '{folded}'\n- codename: '{TAINTS}'\n- codename: '{TAINTS}'\n"
    assert catalogue.parse(listed) == (AUTH, TAINTS)


def test_all_tests_are_listed_by_their_names() -> None:
    listed = "The following spec names can be used:\n"
    for name in (AUTH, f"{TAINTS}  ", TAINTS):
        listed += f"    k8s.io/kubernetes@v1.34.2/test/e2e/a_b.go:264: {name}\n"
    assert catalogue.parse_all(listed + "\n") == (AUTH, TAINTS)
    for other in ("", "no tests", f"  a.go:1: {'x' * 501}\n"):
        with pytest.raises(SmallkubeError, match=r"e2e\.test --list-tests"):
            catalogue.parse_all(other)


@pytest.mark.parametrize("text", ["", "- {}", "[1]", "a: 1", "}{", "[" * 2000, f"- codename: {'x' * 501}"])
def test_another_list_of_tests_is_refused(text: str) -> None:
    with pytest.raises(SmallkubeError, match="unexpected output"):
        catalogue.parse(text)


def test_focus_is_a_regular_expression_that_matches() -> None:
    assert catalogue.select(NAMES, None) == NAMES
    assert catalogue.select(NAMES, "sig-(auth|apps)") == (JOBS, AUTH)
    for focus in ("sig-none", "("):
        with pytest.raises(UsageError, match="--focus"):
            catalogue.select(NAMES, focus)


def test_serial_and_disruptive_tests_run_alone_and_last() -> None:
    groups = catalogue.groups(NAMES)
    assert [(group.names, group.alone) for group in groups] == [((AUTH,), False), ((JOBS,), True), ((TAINTS,), True)]
    assert catalogue.groups(NAMES, {AUTH, TAINTS}) == (groups[1],)


def test_a_pattern_finds_one_test_only() -> None:
    name = "[sig-x] a (b) c.d-e/f: $HOME"
    for own in (name, f"{name} "):
        assert re.search(catalogue.pattern(name), f"Kubernetes e2e suite {own}")
    for other in (f"{name} g", f"x{name}", name.replace(".", "x")):
        assert not re.search(catalogue.pattern(name), f"Kubernetes e2e suite {other}")
    assert '"' not in catalogue.pattern(name)


def test_ginkgo_runs_what_need_not_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"spec": {}}, {"spec": {"taints": [{"key": "b"}, {"key": "a"}, {"key": "c,d"}]}}]
    monkeypatch.setattr(Suite, "_ask_api", lambda _suite, parse, *_words: parse({"items": nodes}))
    suite = Suite(tmp_path / "e2e.test", tmp_path / "config", tmp_path / "kubectl", "k8s.internal", 4, ("inside",))
    together, alone = Group("", (AUTH, LONGER), alone=False), Group("", (AUTH, LONGER), alone=True)
    assert suite.argv(together)[:2] == ["inside", str(suite.program)]
    ginkgo = tmp_path / "ginkgo"
    ginkgo.touch(0o755)
    words = suite.argv(together)
    assert words[:4] == ["inside", str(ginkgo), "run", "--procs=2"]
    rest = words[words.index("--") - 1 :]
    assert rest[0] == str(suite.program) and {"--num-nodes=1", "--non-blocking-taints=a,b"} < set(rest)
    assert f"--focus={catalogue.pattern(AUTH)}" in words[4:]
    assert suite.argv(alone)[1] == str(suite.program) and "--ginkgo.no-color" in suite.argv(alone)


def test_outcomes_are_read_from_several_processes() -> None:
    text = f"""
Running in parallel across 2 processes
{DASHES}
[SynchronizedBeforeSuite] PASSED [3.000 seconds]
[SynchronizedBeforeSuite]
{DASHES}
{DASHES}
• [1.250 seconds]
{AUTH} [sig-auth, Conformance]
k8s.io/kubernetes@v1.34.2/test/e2e/auth/service_accounts.go:77
{DASHES}
{DASHES}
• [FAILED] [61.500 seconds]
[sig-node] Taints [It] removing one cancels eviction [Disruptive] [Conformance] [sig-node, Disruptive]
k8s.io/kubernetes@v1.34.2/test/e2e/node/taints.go:289

  Timeline >>
  STEP: Creating a kubernetes client
  {DASHES}
  [FAILED] in [It] - taints.go:300 @ 11/26/26 18:00:00.000
  << Timeline

  [FAILED] the pod was evicted: it is
  gone
  In [It] at: taints.go:300 @ 11/26/26 18:00:00.000
{DASHES}
{DASHES}
S [SKIPPED] [0.012 seconds]
[sig-apps] CronJob [BeforeEach] should not run jobs when suspended [Serial] [Slow] [Conformance]
k8s.io/kubernetes@v1.34.2/test/e2e/apps/cronjob.go:120

  Timeline >>
  [SKIPPED] in [BeforeEach] - cronjob.go:121 @ 11/26/26 18:00:00.000
  << Timeline

  [SKIPPED] needs three zones
  In [BeforeEach] at: cronjob.go:121 @ 11/26/26 18:00:00.000
{DASHES}
"""
    auth, taints, jobs = outcomes(text, *NAMES)
    assert auth == Outcome(AUTH, PASSED, 1.25)
    assert (taints.name, taints.state, taints.seconds) == (TAINTS, FAILED, 61.5)
    assert taints.message == "the pod was evicted: it is"
    assert "STEP: Creating a kubernetes client" in taints.log and AUTH not in taints.log
    assert jobs == Outcome(JOBS, SKIPPED, 0.012, "needs three zones")


def test_outcomes_are_read_from_one_process() -> None:
    text = f"""{DASHES}
{LONGER} [Conformance]
auth.go:77
  STEP: Creating
  I1126 18:00:00.000000 {AUTH}
• [0.500 seconds]
{DASHES}
{DASHES}
{TAINTS}
  [FAILED] in [BeforeEach] - taints.go:300 @ 11/26/26 18:00:00.000
• [PANICKED!] [2.000 seconds]
TOP-LEVEL [BeforeEach]
  {TAINTS}
  [PANICKED] Test Panicked
{DASHES}
{DASHES}
{JOBS}
• [INTERRUPTED] [9.000 seconds]
{DASHES}
"""
    found = outcomes(text, *NAMES, LONGER)
    assert [(each.name, each.state) for each in found] == [(LONGER, PASSED), (TAINTS, FAILED)]
    assert found[1].message == "Test Panicked"


def test_why_no_test_could_begin_is_told() -> None:
    reader = Reader(NAMES)
    for line in (DASHES, "[SynchronizedBeforeSuite] [FAILED] [1.000 seconds]", "x", "  [FAILED] no nodes", DASHES):
        assert reader.feed(line) is None
    assert reader.fault == "no nodes"


def test_output_without_end_is_bounded() -> None:
    reader = Reader(NAMES)
    reader.feed(DASHES)
    reader.feed(AUTH)
    for number in range(10_000):
        reader.feed(f"{number} " + "x" * 5000)
    reader.feed("• [FAILED] [1.000 seconds]")
    found = reader.feed(DASHES)
    assert found is not None and found.message == "failed without a message"
    lines = found.log.splitlines()
    assert len(lines) == 2 * outcome.KEPT_LINES and max(map(len, lines)) <= outcome.LINE_LENGTH
    assert lines[0] == AUTH and lines[-1] == "• [FAILED] [1.000 seconds]"


@pytest.mark.parametrize(
    "line", ["• [1.000 seconds] more", "• [-1.000 seconds]", f"• [{'9' * 400}.000 seconds]", "• [EVIL] [1.000 seconds]"]
)
def test_a_strange_header_is_no_outcome(line: str) -> None:
    assert outcomes(f"{DASHES}\n{AUTH}\n{line}\n{DASHES}\n", *NAMES) == []


def test_an_interrupted_record_is_resumed(tmp_path: Path) -> None:
    record = Record(tmp_path / ".smallkube/conformance")
    record.begin(RUN)
    assert record.outcomes() == ()
    record.add(Outcome(AUTH, PASSED, 1.0))
    log = record.add(Outcome(TAINTS, FAILED, 2.0, "gone", "all of it\n"))
    assert log and log.read_text() == "all of it\n"
    with (record.folder / "results.jsonl").open("a") as file:
        file.write('{"name": "half')
    assert record.resumed("v1.34.2") == RUN
    assert record.outcomes() == (Outcome(AUTH, PASSED, 1.0), Outcome(TAINTS, FAILED, 2.0, "gone", "logs/002.log"))
    with pytest.raises(UsageError, match=r"was of v1\.34\.2"):
        record.resumed("v1.35.0")
    record.begin(RUN)
    assert record.outcomes() == () and not log.exists()


@pytest.mark.parametrize("text", [None, "", "[]", '{"program": 1}', "\xff"])
def test_resuming_without_a_record_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(UsageError, match="no interrupted run"):
        Record(tmp_path).resumed("v1.34.2")


FOUND = (Outcome(TAINTS, FAILED, 60.0, "gone\x1b[31m | `x`"), Outcome(AUTH, PASSED, 30.0))


def test_the_table_counts_by_sig() -> None:
    made = report.Report(RUN, NAMES, FOUND, 424)
    assert made.rows() == [
        ("sig-apps", 1, 0, 0, 0, 1, "0.0"),
        ("sig-auth", 1, 1, 0, 0, 0, "0.5"),
        ("sig-node", 1, 0, 1, 0, 0, "1.0"),
        ("all", 3, 1, 1, 0, 1, "1.5"),
    ]
    assert made.summary == "1 of 3 passed, 1 failed, 1 not run"
    assert made.not_run == (JOBS,) and not made.complete
    assert report.Report(RUN, (TAINTS, AUTH), FOUND, 2).complete


def test_the_junit_report_can_be_read() -> None:
    suite = ElementTree.fromstring(report.junit(report.Report(RUN, NAMES, FOUND, 424)))
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failure = suite.find("testcase/failure")
    assert failure is not None and (failure.get("message") or "").startswith("gone")


def test_the_document_gets_the_last_result_alone(tmp_path: Path) -> None:
    mark, file = conformance_run.EXTENDED, tmp_path / "conformance.md"
    file.write_text(f"before\n{mark}old{mark}after\n")
    text = conformance_run.document(report.Report(RUN, NAMES, (*FOUND, Outcome(JOBS, SKIPPED, 0.1, "no zones")), 3))
    for _ in range(2):
        conformance_run.publish(mark, text, file)
    written = file.read_text()
    assert written.startswith("before\n") and written.endswith("after\n") and "old" not in written
    assert written.count("1 of 3 passed, 1 failed, 1 skipped on 2026-11-26: Kubernetes v1.34.2") == 1
    assert "| sig-auth | 1 | 1 | 0 | 0 | 0 | 0.5 |" in written and "\x1b" not in written
    assert f"Failed:\n\n- `{TAINTS}`: " in written and "\n- `no zones` (1)\n" in written


@pytest.mark.parametrize("mark", ["COMPLETE", "EXTENDED", "OPERATED"])
def test_the_document_takes_each_result(mark: str) -> None:
    assert conformance_run.DOCUMENT.read_text().count(getattr(conformance_run, mark)) == 2


def test_images_have_upstream_names_and_their_programs(tmp_path: Path) -> None:
    programs, tests = tmp_path / "bin", tmp_path / "test/images"
    for path in (*(programs / name for name in ("agnhost", "nnp", "sample-apiserver", "etcd")),
                 tests / "agnhost/porter/localhost.crt", tests / "agnhost/porter/localhost.key",
                 tests / "nautilus/html/data.json"):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    own = ("agnhost:2.55", "agnhost:2.63.0", "busybox:1", "glibc-dns-testing:2.0.0", "nautilus:1", "nginx:1", "nginx:2",
           "nonewprivs:1", "nonroot:1", "sample-apiserver:1")  # fmt: skip
    names = [*(f"{conformance.REGISTRY}/{name}" for name in own), "registry.k8s.io/etcd:3", "registry.k8s.io/pause:3"]
    others = ["gcr.io/k8s-authenticated-test/agnhost:2.6", f"{conformance.REGISTRY}/perl:5.26"]
    layers = (programs, tmp_path, b"tools", b"bb", b"pause")
    made = {image.name: image for image in conformance.images([*names, *others], *layers)}
    assert set(made) == set(names)
    with pytest.raises(SmallkubeError, match=r"names no registry\.k8s\.io/pause: upstream has other images"):
        conformance.images(names[:-1], *layers)
    agnhost = made[f"{conformance.REGISTRY}/agnhost:2.63.0"]
    assert (agnhost.entrypoint, agnhost.command) == (["/agnhost"], ["pause"])
    assert json.loads(json.dumps(agnhost.config))["Entrypoint"] == ["/agnhost"]


def test_extended_tests_are_of_two_sigs_and_can_pass() -> None:
    names = [f"[sig-{each}] works" for each in ("network", "storage", "auth")]
    names += ["[sig-network] done [Conformance]", "[sig-network] x [Feature:LoadBalancer]"]
    others = conformance_extended.others(names, names[3:4])
    assert others == (*names[:2], names[4])
    assert conformance_extended.possible(others) == tuple(names[:2])
    assert conformance_extended.left_out(others).splitlines() == [
        "Of 3 tests of sig-network and sig-storage that are not conformance tests, 1 can't pass:",
        "",
        "- `\\[Feature:LoadBalancer\\]` (1): nothing assigns addresses to Services of type LoadBalancer",
    ]


def test_extended_tests_get_dual_stack_services(tmp_path: Path) -> None:
    file = tmp_path / "inventory.yaml"
    file.write_text(inventory(1, (1, 2), "lab"))
    for _ in range(2):
        conformance_extended.give_services_ipv6(file)
    assert load(file).cluster.network.services6 == conformance_extended.SERVICES6


class Operated(conformance_run.Cluster):
    """Notes each task instead of running it."""

    def inv(self, step: str) -> None:
        (self.workspace.root / "steps").open("a").write(f"{step}\n")

    def suite(self) -> Suite:
        return Suite(Path("e2e.test"), Path("config"), Path("kubectl"), "k8s.internal", 1)


@pytest.mark.parametrize(("failing", "steps"), [(None, 4), (2, 2)])
def test_operations_go_on_while_all_tests_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int | None, steps: int
) -> None:
    ran: list[str] = []

    def run_suite(_here: object, _suite: Suite, every: tuple[str, ...], focus: str, _resume: bool) -> report.Report:
        ran.append(focus)
        ended = Outcome(AUTH, FAILED if len(ran) == failing else PASSED, 1.0)
        return report.Report(RUN, every, (ended,), 3)

    published: list[str] = []
    monkeypatch.setattr(Suite, "tests", lambda _: (AUTH,))
    monkeypatch.setattr(conformance_run, "run_suite", run_suite)
    monkeypatch.setattr(conformance_run, "publish", lambda mark, text: published.append(mark + text))
    lab = Lab(Places(tmp_path, tmp_path), "lab")
    cluster = Operated(lab, Workspace(tmp_path), tmp_path, tmp_path, 1)
    found = conformance_run.after_operations(Current(), cluster, None)
    wanted = [step for each in conformance_run.OPERATIONS[:steps] for step in (*each, conformance_run.KUBECONFIG)]
    assert (tmp_path / "steps").read_text().splitlines() == wanted
    assert ran == [conformance_run.SLICE] * steps
    assert [outcome.state for outcome in found.outcomes] == [FAILED if failing else PASSED]
    assert [text.count("1 of 1 passed, 0 failed") for text in published] == ([] if failing else [4])
