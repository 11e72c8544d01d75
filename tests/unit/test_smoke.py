"""Proves which checks are chosen, what is made of the pods' answers, and that the report is XML whatever is said."""

from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.errors import UsageError
from smallkube.inventory import parse
from smallkube.nodes.machine import over_ssh
from smallkube.smoke import objects, probes, report, runner
from smallkube.smoke.report import NAMES, Outcome, Result
from smallkube.smoke.scene import Failed, NotReached, Options, Pod, Scene
from smallkube.workspace import Workspace

TEXT = "cluster: {name: t}\nnodes: {node1: {peer_ip: 192.0.2.1}, node2: {peer_ip: 192.0.2.2}}\n"
PODS = [Pod("a", "node1", "fd88:1::9", "10.88.1.9"), Pod("b", "node2", "fd88:2::9", "10.88.2.9")]


def scene(egress: str = "") -> Scene:
    made = Scene(
        parse(TEXT, Path("inventory.yaml")),
        over_ssh(Workspace(Path("/nowhere"))),
        Options("busybox", "Never", egress),
        None,
        "space",
        ExitStack(),
    )
    made.pods = PODS
    made.services = {"probe": "10.88.0.7", "probe-node1": "10.88.0.8", "probe-node2": "10.88.0.9"}
    return made


def test_every_check_has_somebody_who_makes_it() -> None:
    made = {*runner.WITHOUT_API, *runner.WITH_API, "pods.rollout", *runner.WITH_PODS, "cleanup.done"}
    assert made == set(NAMES)


@pytest.mark.parametrize(
    ("only", "skip", "expected"),
    [
        (["etcd"], [], ("etcd.health", "etcd.alarms")),
        (["etcd", "api.ready"], ["etcd.alarms"], ("etcd.health", "api.ready")),
        ([], [name for name in report.GROUPS if name != "pods"], ("pods.rollout",)),
    ],
)
def test_checks_are_chosen_by_name_and_group(only: list[str], skip: list[str], expected: tuple[str, ...]) -> None:
    assert report.select(only, skip) == expected
    assert report.select([], []) == NAMES


@pytest.mark.parametrize(("only", "skip"), [(["nope"], []), ([], ["etcd.nope"]), (["etcd"], ["etcd"])])
def test_a_choice_that_makes_no_sense_is_a_usage_error(only: list[str], skip: list[str]) -> None:
    with pytest.raises(UsageError):
        report.select(only, skip)


def test_each_pod_tries_the_others_in_both_families_and_never_itself() -> None:
    tried = probes.probes(scene(), PODS[0])
    assert [probe.words for probe in tried if probe.check in ("network.ipv6", "network.ipv4")] == [
        ("http", "http://[fd88:2::9]:8080/", "node2.k8s.internal"),
        ("http", "http://10.88.2.9:8080/", "node2.k8s.internal"),
    ]
    assert ("http", "http://10.88.0.8/", "node1.k8s.internal") in [probe.words for probe in tried]
    assert not [probe for probe in tried if probe.check == "egress.internet"]


def test_the_way_out_is_tried_when_it_is_named() -> None:
    words = [probe.words for probe in probes.probes(scene("[2001:db8::1]:443"), PODS[0])]
    assert ("connect", "2001:db8::1", "443") in words


def test_no_line_of_what_is_tried_can_be_taken_for_two() -> None:
    for probe in probes.probes(scene("example.com:443"), PODS[0]):
        assert not [word for word in probe.words if not word or set(word) & set(" \n\t")]


def answers(node1: str, node2: str | None) -> Scene:
    made = scene()
    made.answers = {"node1": {"network.ipv6 node2": node1}}
    if node2 is not None:
        made.answers["node2"] = {"network.ipv6 node1": node2}
    return made


def test_answers_are_judged_by_who_was_asked() -> None:
    assert probes.answered(answers("", ""), "network.ipv6") == "2 tries"
    assert probes.answered(answers("", None), "network.ipv6") == "1 tries (not asked: node2)"
    with pytest.raises(Failed, match=r"node2 → node1: timed out; inv net\.check"):
        probes.answered(answers("", "timed out"), "network.ipv6")
    with pytest.raises(NotReached):
        probes.answered(scene(), "network.ipv6")


def test_what_was_not_answered_did_not_work() -> None:
    wanted = probes.probes(scene(), PODS[0])[:3]
    said = probes.parse(wanted, "0 ok\n2 wget: bad address\n")
    assert list(said.values()) == ["", "no answer", "wget: bad address"]


def test_all_that_is_made_lies_in_the_namespace() -> None:
    made = [objects.daemon_set("space", scene().options), *objects.services("space", PODS), objects.secret("space")]
    assert {each["metadata"]["namespace"] for each in made} == {"space"}
    assert len({each["metadata"]["name"] for each in made if each["kind"] == "Service"}) == 4


outcomes: st.SearchStrategy[Outcome] = st.sampled_from(["ok", "failed", "skipped", "not reached"])


@given(st.lists(st.builds(Result, st.sampled_from(NAMES), outcomes, st.floats(0, 1e6), st.text())))
def test_the_report_is_xml_whatever_was_said(results: list[Result]) -> None:
    suite = ElementTree.fromstring(report.junit(results, "c").encode())
    assert suite.get("tests") == str(len(results)) == str(len(suite))
    assert suite.get("failures") == str(len(suite.findall("testcase/failure")))
