"""Proves which checks are chosen, what is made of the answers of pods and machines, that nothing untried is called ok,
that a run cleans up whatever happens, and that the report is XML whatever is said.
"""

import os
import subprocess
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from smallkube.cli.cluster import image_of
from smallkube.core.checks import Result
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory.load import parse
from smallkube.inventory.models import Inventory
from smallkube.remote.ssh import connector
from smallkube.smoke import pods, probes, report, table
from smallkube.smoke.context import LABEL, SCRIPTS, Failed, NotReached, Options, Pod, Probe, SmokeContext
from smallkube.smoke.report import SmokeResult
from smallkube.smoke.table import NAMES

PEERS = ("node1: {peer_ip: 192.0.2.1}", "node2: {peer_ip: 192.0.2.2}")
PODS = [Pod("a", "node1", "fd88:1::9", "10.88.1.9"), Pod("b", "node2", "fd88:2::9", "10.88.2.9")]


def inventory(nodes: int = 2) -> Inventory:
    return parse(f"cluster: {{name: t}}\nnodes: {{{', '.join(PEERS[:nodes])}}}\n", Path("inventory.yaml"))


def context(egress: str = "", nodes: int = 2) -> SmokeContext:
    made = SmokeContext(
        inventory(nodes),
        connector(Workspace(Path("/nowhere"))),
        Options("busybox", "Never", egress),
        None,
        "space",
        ExitStack(),
    )
    made.nodes = [{"metadata": {"name": made.host(node)}} for node in made.inventory.nodes]
    made.pods = PODS
    made.host_pods = [Pod("c", "node2", "fd88:2::1", "10.88.2.1")]
    made.services = {"probe": ("10.88.0.7",), "probe-node1": ("10.88.0.8",), "probe-node2": ("10.88.0.9",)}
    made.services["probe-host-node2"] = ("10.88.0.10",)
    return made


def pending(node: str, reason: str, message: str = "") -> dict[str, Any]:
    """A DaemonSet's pod as kubectl shows it while its container waits."""
    waiting = {"reason": reason, **({"message": message} if message else {})}
    status = {"name": "probe", "ready": False, "restartCount": 0, "started": False, "state": {"waiting": waiting}}
    return {
        "metadata": {"name": f"probe-{node}"},
        "spec": {"nodeName": f"{node}.k8s.internal"},
        "status": {"phase": "Pending", "conditions": [], "containerStatuses": [status]},
    }


NEVER = 'Container image "none:1" is not present with pull policy of Never'
PULL = (  # of CRI-O 1.34
    "unable to try pulling possible OCI artifact: build image source: pinging container registry registry.invalid: "
    'Get "https://registry.invalid/v2/": dial tcp: lookup registry.invalid on 127.0.0.53:53: no such host'
)


@pytest.mark.parametrize(
    ("reason", "message", "final"),
    [
        ("ErrImageNeverPull", NEVER, True),
        ("InvalidImageName", 'Failed to apply default image tag "N:": couldn\'t parse image name', True),
        ("ErrImagePull", PULL, True),
        ("ImagePullBackOff", f'Back-off pulling image "none:1": ErrImagePull: {PULL}', True),
        ("RegistryUnavailable", "image pull failed for none:1 because the registry is unavailable", True),
        ("SignatureValidationFailed", "image pull failed for none:1 because the signature validation failed", True),
        ("ContainerCreating", "", False),
        ("ImageInspectError", 'Failed to inspect image "none:1"', False),
        ("CreateContainerError", "context deadline exceeded", False),
        ("CrashLoopBackOff", "back-off 10s restarting failed container", False),
    ],
)
def test_only_a_missing_image_ends_the_wait(reason: str, message: str, final: bool) -> None:
    found = pods.diagnosis(pending("node1", reason, message))
    assert (found.reason, found.final) == (reason, final)
    assert found.message == message
    assert len(pods.diagnosis(pending("node1", reason, "x" * 5000)).message) < 500


def test_a_missing_image_is_one_line_with_nodes_reason_and_hint() -> None:
    waiting = {node: pods.diagnosis(pending(node, "ErrImageNeverPull", NEVER)) for node in ("node1", "node2")}
    hint = "name one that the nodes can get: cluster.smoke.image in inventory.yaml, or --image"
    assert pods.explanation(waiting, "none:1", "space") == (
        f"no image none:1 on node1, node2: ErrImageNeverPull: {NEVER}; {hint}"
    )
    waiting["node3"] = pods.diagnosis(pending("node3", "ErrImagePull", "line\nline"))
    waiting["node4"] = pods.diagnosis(pending("node4", "ContainerCreating"))
    assert pods.explanation(waiting, "none:1", "space") == (
        f"no image none:1 on node1, node2: ErrImageNeverPull: {NEVER}; "
        f"no image none:1 on node3: ErrImagePull: line line; {hint}; "
        "node4: ContainerCreating; kubectl describe pods -n space (--keep leaves them)"
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((None, None), ("a:1", "Never")),
        (("b:2", None), ("b:2", "Never")),
        (("b:2", "Always"), ("b:2", "Always")),
    ],
)
def test_flags_override_the_image_of_the_inventory(
    flags: tuple[str | None, str | None], expected: tuple[str, str]
) -> None:
    text = "cluster: {name: t, smoke: {image: 'a:1', pull_policy: Never}}\nnodes: {node1: {peer_ip: 192.0.2.1}}\n"
    smoke = parse(text, Path("inventory.yaml")).cluster.smoke
    assert image_of(smoke, *flags) == expected
    assert image_of(inventory().cluster.smoke, None, None) == ("docker.io/library/busybox:1.37", "IfNotPresent")
    with pytest.raises(UsageError, match="--image"):
        image_of(smoke, "", None)
    with pytest.raises(UsageError, match="one of Always, IfNotPresent, Never"):
        image_of(smoke, None, "never")


@pytest.mark.parametrize(("key", "value"), [("image", "''"), ("image", "'a b'"), ("pull_policy", "never")])
def test_the_inventory_refuses_an_impossible_image(key: str, value: str) -> None:
    text = f"cluster: {{name: t, smoke: {{{key}: {value}}}}}\nnodes: {{node1: {{peer_ip: 192.0.2.1}}}}\n"
    with pytest.raises(SmallkubeError, match=rf"cluster\.smoke\.{key}"):
        parse(text, Path("inventory.yaml"))


@pytest.mark.parametrize(
    ("only", "skip", "expected"),
    [
        (["etcd"], [], ("etcd.health", "etcd.alarms")),
        (["etcd", "api.ready"], ["etcd.alarms"], ("etcd.health", "api.ready")),
        ([], [name for name in table.GROUPS if name != "pods"], ("pods.rollout",)),
    ],
)
def test_checks_are_chosen_by_name_and_group(only: list[str], skip: list[str], expected: tuple[str, ...]) -> None:
    assert table.select(only, skip) == expected
    assert table.select([], []) == NAMES


@pytest.mark.parametrize(("only", "skip"), [(["nope"], []), ([], ["etcd.nope"]), (["etcd"], ["etcd"])])
def test_a_choice_that_makes_no_sense_is_a_usage_error(only: list[str], skip: list[str]) -> None:
    with pytest.raises(UsageError):
        table.select(only, skip)


def tried(made: SmokeContext, pod: Pod = PODS[0]) -> list[Probe]:
    return list(probes.of_pod(made, pod))


def test_each_pod_connects_to_all_others_in_both_families() -> None:
    found = tried(context())
    assert [probe.words for probe in found if probe.check in ("network.ipv6", "network.ipv4")] == [
        ("http", "http://[fd88:2::9]:8080/", "node2.k8s.internal"),
        ("http", "http://10.88.2.9:8080/", "node2.k8s.internal"),
    ]
    assert ("http", "http://10.88.0.8/", "node1.k8s.internal") in [probe.words for probe in found]
    assert not [probe for probe in found if probe.check == "egress.internet"]


def test_the_way_out_is_tried_when_it_is_named() -> None:
    words = [probe.words for probe in tried(context("[2001:db8::1]:443"))]
    assert ("connect", "2001:db8::1", "443") in words


def test_no_line_of_what_is_tried_can_be_taken_for_two() -> None:
    made = context("example.com:443")
    made.node_port = 30000
    for probe in (*tried(made), *probes.of_machine(made, made.inventory.primary)):
        assert not [word for word in probe.words if not word or set(word) & set(" \n\t")]
    assert probes.lines(tried(made)).count(b"\n") == len(tried(made))


def test_machines_connect_to_the_node_ports_of_all_nodes() -> None:
    made = context()
    made.node_port = 30000
    made.nodes = made.nodes[:1]
    found = probes.of_machine(made, made.inventory.primary)
    assert [probe.words for probe in found if probe.check == "network.nodeport"] == [
        ("fetch", "http://10.88.1.1:30000/")
    ]


def test_pods_and_machines_reach_services_of_host_pods() -> None:
    made = context()
    for pod in PODS:
        found = [probe.words for probe in tried(made, pod) if probe.check == "network.hostnetwork"]
        assert found == [("http", "http://10.88.0.10/", "node2.k8s.internal")]
    for node in made.inventory.nodes:
        by_machine = [probe.words for probe in probes.of_machine(made, node) if probe.check == "network.host"]
        assert by_machine == [("fetch", "http://10.88.0.7/"), ("fetch", "http://10.88.0.10/")]


def test_services_of_two_families_are_tried_in_both() -> None:
    text = f"cluster: {{name: t, network: {{services6: 'fd88::/112'}}}}\nnodes: {{{', '.join(PEERS)}}}\n"
    made = replace(context(), inventory=parse(text, Path("inventory.yaml")), node_port=30000)
    made.nodes = context().nodes
    made.services = {"probe": ("10.88.0.7", "fd88::7"), "probe-host-node2": ("10.88.0.10", "fd88::10")}
    found = {
        (probe.check, probe.words[1:]) for probe in [*tried(made), *probes.of_machine(made, made.inventory.primary)]
    }
    assert {
        ("network.service", ("http://[fd88::7]/",)),
        ("network.hostnetwork", ("http://[fd88::10]/", "node2.k8s.internal")),
        ("network.host", ("http://[fd88::7]/",)),
        ("network.host", ("http://[fd88::10]/",)),
        ("network.nodeport", ("http://[fd88:2::1]:30000/",)),
        ("network.nodeport", ("http://10.88.2.1:30000/",)),
        ("dns.services", ("probe.space.svc.k8s.internal", "10.88.0.7", "fd88::7")),
    } <= found


@given(st.from_regex(r"smallkube-smoke-[0-9a-f]{8}", fullmatch=True))
def test_host_pods_serve_on_a_port_that_nobody_gives_out(namespace: str) -> None:
    assert 20_000 <= replace(context(), namespace=namespace).host_port < 30_000


HEADER = ";; Got answer:\n;; ->>HEADER<<- opcode: QUERY, status: {}, id: 1\n;; flags: qr; QUERY: 1\n"


@pytest.mark.parametrize(
    ("kind", "answer", "says"),
    [
        ("unknown", HEADER.format("NXDOMAIN"), "ok"),
        ("unknown", HEADER.format("REFUSED"), "status: REFUSED"),
        ("unknown", ";; communications error\n;; no servers could be reached", "no servers could be reached"),
        ("own", "box. 30 IN AAAA fd88:1::1", "ok"),
        ("own", "", "ok"),
        ("own", "box. 30 IN A 10.127.0.1", "ok"),
        ("own", "box. 30 IN A 127.0.0.2", "box. 30 IN A 127.0.0.2"),
        ("own", "box. 30 IN AAAA ::1", "box. 30 IN AAAA ::1"),
    ],
)
def test_names_that_machines_ask_coredns_for(kind: str, answer: str, says: str, tmp_path: Path) -> None:
    programs = {"dig": f"cat <<'E'\n{answer}\nE", "hostname": "echo box.lan", "uname": "echo box", "sleep": "exit"}
    for program, text in programs.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / program).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    argv = SCRIPTS.sent("probe", "0").argv
    line = f"0 {kind} fd88:1::1 name\n"
    done = subprocess.run(argv, input=line, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == f"0 {says}\n"


@pytest.mark.parametrize(
    ("wanted", "addresses"),
    [
        ("[tunnel]", ["10.88.1.1", "10.88.2.1"]),
        ("[lan]", ["192.0.2.1", "192.0.2.2"]),
        ("[lan, tunnel]", ["10.88.1.1", "192.0.2.1", "10.88.2.1", "192.0.2.2"]),
    ],
)
def test_node_ports_are_tried_where_they_are_to_answer(wanted: str, addresses: list[str]) -> None:
    text = f"cluster: {{name: t, network: {{node_ports: {wanted}}}}}\nnodes: {{{', '.join(PEERS)}}}\n"
    made = replace(context(), inventory=parse(text, Path("inventory.yaml")), node_port=30000)
    made.nodes = context().nodes
    found = [probe.words[1] for probe in probes.of_machine(made, made.inventory.primary) if probe.words[0] == "fetch"]
    assert [url for url in found if ":30000" in url] == [f"http://{address}:30000/" for address in addresses]


def answers(node1: str, node2: str | None, check: str = "network.ipv6") -> SmokeContext:
    made = context()
    made.answers = {"node1": {Probe(check, "node2", ()): node1}}
    if node2 is not None:
        made.answers["node2"] = {Probe(check, "node1", ()): node2}
    return made


def test_answers_are_judged_by_who_was_asked() -> None:
    assert probes.by_pods(answers("", ""), "network.ipv6") == "2 tries"
    assert probes.by_pods(answers("", None), "network.ipv6") == "1 tries (not asked: node2)"
    with pytest.raises(Failed, match=r"node2 → node1: timed out$"):
        probes.by_pods(answers("", "timed out"), "network.ipv6")
    with pytest.raises(NotReached):
        probes.by_pods(context(), "network.ipv6")


@pytest.mark.parametrize("check", ["network.ipv6", "network.service", "network.hairpin", "dns.services"])
def test_what_was_not_tried_is_not_ok(check: str) -> None:
    made = context()
    made.answers = {"node1": {}}
    with pytest.raises(NotReached):
        probes.by_pods(made, check)


def test_a_pod_without_an_address_fails_that_family() -> None:
    made = answers("", "")
    made.pods = [PODS[0], Pod("b", "node2", "fd88:2::9", "")]
    with pytest.raises(Failed, match="node2"):
        probes.by_pods(made, "network.ipv4")
    assert probes.by_pods(made, "network.ipv6") == "2 tries"


def test_one_node_alone_has_no_other_to_reach() -> None:
    made = context(nodes=1)
    made.pods, made.answers = PODS[:1], {"node1": {}}
    assert probes.by_pods(made, "network.ipv6") == "a single node: nothing to try"


def test_machines_that_can_t_be_asked_are_named() -> None:
    made = context()
    probe = Probe("network.host", "10.88.0.7", ())
    made.results, made.unreachable = {"node1": {probe: ""}}, {"node2": "no route"}
    with pytest.raises(NotReached, match="node2: no route"):
        probes.by_machines(made, "network.host")
    made.results = {"node1": {probe: "timed out"}}
    with pytest.raises(Failed, match=r"timed out.*not asked: node2"):
        probes.by_machines(made, "network.host")
    made.unreachable = {}
    with pytest.raises(NotReached, match="no Service"):
        probes.by_machines(made, "network.nodeport")


def test_what_was_not_answered_did_not_work() -> None:
    wanted = tried(context())[:3]
    said = probes.parse(wanted, "0 ok\n2 wget: bad address\n")
    assert list(said.values()) == ["", "no answer", "wget: bad address"]


def test_all_objects_are_in_the_namespace() -> None:
    made = context()
    options: dict[str, object] = {"image": 'a"b', "pull_policy": "Never", "port": "8080", "host_network": False}
    daemon_set = made.manifest("pods", name="probe", **options)
    found = [yaml.safe_load(text) for text in (daemon_set, *pods.services(made), made.manifest("secret"))]
    assert {each["metadata"]["namespace"] for each in found} == {"space"}
    services = {each["metadata"]["name"]: each["spec"] for each in found if each["kind"] == "Service"}
    assert set(services) == {"probe", "probe-port", "probe-node1", "probe-node2", "probe-host-node2"}
    assert services["probe-host-node2"]["selector"] == {"app": "probe-host", "smoke-node": "node2"}
    pods_labelled = {each["metadata"]["labels"]["smoke-node"] for each in found if each["kind"] == "Pod"}
    assert pods_labelled == {"node1", "node2"}
    assert services["probe-host-node2"]["ports"] == [{"port": 80, "targetPort": made.host_port}]
    (container,) = found[0]["spec"]["template"]["spec"]["containers"]
    assert (container["image"], container["command"][2].count("$NODE")) == ('a"b', 1)
    group, mark = LABEL.split("=")
    namespace = yaml.safe_load(made.manifest("namespace"))
    assert namespace["metadata"] == {
        "name": "space",
        "labels": {group: mark, "pod-security.kubernetes.io/enforce": "privileged"},
    }


smoke_results = st.builds(
    SmokeResult,
    subject=st.just(""),
    check=st.sampled_from(NAMES),
    result=st.sampled_from(Result),
    detail=st.text(),
    seconds=st.floats(0, 1e6),
    reached=st.booleans(),
)


@settings(max_examples=30)
@given(st.lists(smoke_results))
def test_the_report_is_xml_for_any_message(results: list[SmokeResult]) -> None:
    suite = ElementTree.fromstring(report.junit(results, "c").encode())
    assert suite.get("tests") == str(len(results)) == str(len(suite))
    assert suite.get("failures") == str(len(suite.findall("testcase/failure")))


def ended(*outcomes: str) -> list[SmokeResult]:
    """Checks named by their number that were ok (o), failed (f), skipped (s) or not reached (n)."""
    results = {"o": Result.OK, "f": Result.FAILED, "s": Result.SKIPPED, "n": Result.SKIPPED}
    return [SmokeResult("", str(at), results[one], "why", reached=one != "n") for at, one in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("outcomes", "wanted"),
    [
        ("oso", ""),
        ("ofs", "1"),
        ("ofnnn", "1; 3 more not reached because of it"),
        ("ffn", "0, 1; 1 more not reached because of them"),
        ("onn", "2 not reached, 1 first: why"),
    ],
)
def test_summary_names_the_cause_once(outcomes: str, wanted: str) -> None:
    assert ", ".join(report.faults(ended(*outcomes))) == wanted


def test_faults_of_an_upgrade_have_their_details() -> None:
    assert report.faults(ended(*"ofnn"), detailed=True) == ["1 (why); 2 more not reached because of it"]
