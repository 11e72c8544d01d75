"""Proves with a primary that exists only in memory that a run removes what it made whatever ends it, that what can't be
made is said so, quickly, and how the answers of Kubernetes and etcd are judged.
"""

import base64
import json
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.load import parse
from smallkube.inventory.models import Node
from smallkube.remote.fake import FakeHost
from smallkube.remote.host import Command, Result
from smallkube.smoke import control, pods, runner, tokens
from smallkube.smoke.context import SCRIPTS, Failed, Options, Pod, SmokeContext
from smallkube.smoke.report import SmokeResult
from smallkube.smoke.table import NAMES

INVENTORY = parse("cluster: {name: t}\nnodes: {node1: {peer_ip: 192.0.2.1}}\n", Path("inventory.yaml"))
NODE = "node1.k8s.internal"
ISSUER = "https://test-kube.example.com:6443"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CURL = "curl: (60) SSL certificate problem: self-signed certificate\nMore details here\n\nhow to fix it, please visit\n"
READY = {"type": "Ready", "status": "True"}
Answer = str | Result | BaseException
Work = Callable[[SmokeContext], str]
SCHEDULER = partial(control.runs, component="kube-scheduler")
CONTROLLERS = partial(control.runs, component="kube-controller-manager")


@dataclass
class Primary:
    """A machine on which each command is answered by the first of ``answers`` whose words are all in it.

    ``asked`` has the commands, ``sent`` the standard input of each.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)

    def answer(self, command: Command) -> Result:
        line = " ".join(command.argv)
        self.asked.append(line)
        self.sent.append((command.stdin or b"").decode())
        for words, answer in self.answers.items():
            if all(word in line for word in words.split()):
                if isinstance(answer, BaseException):
                    raise answer
                return answer if isinstance(answer, Result) else Result(0, answer.encode(), "")
        return Result(0, b'{"items": []}', "")

    def connect(self, node: Node) -> FakeHost:
        return FakeHost(node, self.answer)

    def did(self, *words: str) -> list[str]:
        return [line for line in self.asked if all(word in line for word in words)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_FIRST_LEASE_SECONDS", 0)


def node(name: str = NODE, version: str = "v1.34.2", condition: dict[str, str] = READY) -> dict[str, Any]:
    status = {"nodeInfo": {"kubeletVersion": version}, "conditions": [condition]}
    return {"metadata": {"name": name}, "status": status}


def lease(seconds: float, name: str = NODE) -> dict[str, Any]:
    renewed = (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    return {"metadata": {"name": name}, "spec": {"renewTime": renewed}}


def items(*found: dict[str, Any]) -> str:
    return json.dumps({"items": found})


def run(primary: Primary, *wanted: str, **options: Any) -> dict[str, SmokeResult]:
    primary.answers.setdefault("get nodes", items(node()))
    given = Options("busybox", "Never", **{"rollout": 0, **options})
    explained: list[str] = []
    results = runner.run(INVENTORY, primary.connect, None, given, wanted, lambda _: None, explained.append)
    return {row.check: row for row in results}


def refused(*words: str) -> Result:
    return Result(1, b"", " ".join(words))


def namespace_of(primary: Primary) -> str:
    (line,) = primary.did("delete namespace smallkube-smoke-")
    return line.split("delete namespace ")[1].split()[0]


@pytest.mark.parametrize("moment", ["apply", "get pods", "delete --selector"])
def test_interrupted_at_any_point_what_was_made_is_removed(moment: str) -> None:
    primary = Primary({moment: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        run(primary, "pods.rollout")
    assert primary.did("wait", namespace_of(primary))


@pytest.mark.parametrize("moment", ["apply", "get pods", "get endpointslices"])
def test_a_failed_check_stops_neither_others_nor_the_cleanup(moment: str) -> None:
    primary = Primary({moment: refused("Error: no")})
    found = run(primary, *NAMES)
    assert tuple(found) == NAMES
    assert found["pods.rollout"].outcome == "failed"
    assert namespace_of(primary)


def test_unexpected_output_fails_its_check_alone() -> None:
    primary = Primary({"get leases": "not json", "get services": "null"})
    found = run(primary, *NAMES)
    assert found["nodes.leases"].outcome == "failed"
    assert "unexpected answer" in found["nodes.leases"].detail
    assert found["nodes.ready"].outcome == "ok"
    assert namespace_of(primary)


def test_failed_check_ends_with_its_hint() -> None:
    primary = Primary({"readyz": "ok", "is-active kube-scheduler": Result(3, b"failed\n", "")})
    (row,) = run(primary, "control.scheduler").values()
    assert (row.result.value, row.reached) == ("failed", True)
    assert row.detail == "kube-scheduler.service is failed; systemctl status kube-scheduler on the primary"


def test_a_lost_connection_is_reopened_to_clean_up() -> None:
    class Fragile(Primary):
        def answer(self, command: Command) -> Result:
            if self.made == 1 and "delete namespace smallkube" in " ".join(command.argv):
                raise SmallkubeError("connection lost")
            return super().answer(command)

        made = 0

        def connect(self, node: Node) -> FakeHost:
            self.made += 1
            return super().connect(node)

    primary = Fragile()
    assert run(primary, "pods.rollout", "cleanup.done")["cleanup.done"].outcome == "ok"
    assert (primary.made, bool(namespace_of(primary))) == (2, True)


@pytest.mark.parametrize(("rollout", "slowness"), [(20, 1), (90, 1), (180, 2), (1800, 20)])
def test_where_pods_start_slowly_all_may_take_longer(rollout: int, slowness: int) -> None:
    primary = Primary({"wait --for=delete": refused("timed out waiting"), "apply": refused("denied")})
    found = run(primary, "api.anonymous", "pods.rollout", "cleanup.done", rollout=rollout, timeout=3600)
    assert f"is not gone after {60 * slowness} s" in found["cleanup.done"].detail
    for seconds in (20, 65):
        assert primary.did(f"--request-timeout={seconds * slowness}s")
    assert primary.did(f"--timeout={60 * slowness}s")
    assert primary.did(f"--max-time {5 * slowness} ")


def test_kept_pods_stay_and_leftovers_of_earlier_runs_do_not() -> None:
    primary = Primary()
    found = run(primary, "pods.rollout", "cleanup.done", keep=True)
    assert primary.did("delete namespace", "--selector=app.kubernetes.io/managed-by=smallkube-smoke")
    assert not primary.did("delete namespace smallkube-smoke-")
    assert found["cleanup.done"].outcome == "skipped"


def test_without_the_api_only_what_needs_none_is_tried() -> None:
    primary = Primary({"kubectl": refused("connection refused"), "curl": Result(7, b"", "curl: (7) refused")})
    found = run(primary, *NAMES)
    assert {name for name, row in found.items() if row.outcome == "failed"} >= {"api.ready"}
    assert {found[name].outcome for name in NAMES if name.startswith(("nodes.", "network.", "dns."))} == {"not reached"}
    assert len(primary.did("kubectl")) == 1
    assert found["cleanup.done"].detail == "nothing was made"


def test_an_unreachable_primary_is_reported_once() -> None:
    def connect(_: Node) -> Any:
        raise SmallkubeError("no route", where="node1")

    given = Options("busybox", "Never")
    rows = runner.run(INVENTORY, connect, None, given, ["etcd.health", "api.ready"], lambda _: None, lambda _: None)
    assert [row.detail for row in rows] == ["node1: no route", "the primary can't be reached"]
    assert {row.outcome for row in rows} == {"not reached"}

    def unknown(_: Node) -> Any:
        raise UsageError("no host key is known", where="node1")

    with pytest.raises(UsageError):
        runner.run(INVENTORY, unknown, None, given, ["etcd.health"], lambda _: None, lambda _: None)


def test_after_the_deadline_only_the_cleanup_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100000, 3))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    found = run(Primary(), *NAMES, timeout=200)
    assert found["etcd.health"].outcome != "not reached"
    assert found["secrets.encrypted"].detail == "--timeout 200 is over"
    assert found["cleanup.done"].outcome == "ok"


def container(reason: str, name: str = NODE, *, on_host: bool = False) -> dict[str, Any]:
    """A pod on ``name`` whose container waits for ``reason``; of one that is ready without a reason."""
    state = {"state": {"waiting": {"reason": reason, "message": f"about {reason}"}}} if reason else {"state": {}}
    status = {"phase": "Pending", "containerStatuses": [state], "conditions": [] if reason else [READY]}
    return {"metadata": {"name": f"probe-{name}"}, "spec": {"nodeName": name, "hostNetwork": on_host}, "status": status}


@dataclass
class Kubelet(Primary):
    """Whose only pod waits for each of ``reasons`` in turn."""

    reasons: list[str] = field(default_factory=list)

    def answer(self, command: Command) -> Result:
        line = " ".join(command.argv)
        if "get --output=json pods" not in line:
            return super().answer(command)
        self.asked.append(line)
        self.sent.append((command.stdin or b"").decode())
        return Result(0, items(container(self.reasons.pop(0)), container("", on_host=True)).encode(), "")


@pytest.mark.parametrize(
    ("reasons", "asked"),
    [
        (["ContainerCreating", "ErrImagePull", ""], 2),  # the first failed pull ends the wait
        (["ContainerCreating", "ImageInspectError", "ImagePullBackOff"], 3),
        (["ContainerCreating", "CreateContainerError", ""], 3),
    ],
)
def test_a_pod_without_an_image_is_not_waited_for(
    reasons: list[str], asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    primary = Kubelet({"get endpointslices": items({"endpoints": [{}, {}, {}, {}]})}, reasons=[*reasons])
    found = run(primary, "pods.rollout", rollout=60)["pods.rollout"]
    assert len(primary.did("get --output=json pods")) == asked
    last = reasons[asked - 1]
    assert found.outcome == ("failed" if last else "ok"), found.detail
    assert f"no image busybox on node1: {last}: about {last}" in found.detail or not last
    assert "cluster.smoke.image in inventory.yaml, or --image" in found.detail or not last


def test_a_pod_on_the_host_that_does_not_run_fails_the_rollout() -> None:
    there = items(container(""), container("CrashLoopBackOff", on_host=True))
    endpoints = items({"endpoints": [{}, {}, {}]})
    primary = Primary({"get --output=json pods": there, "get --output=json endpointslices": endpoints})
    found = run(primary, "pods.rollout")["pods.rollout"]
    assert (found.outcome, "node1: CrashLoopBackOff about" in found.detail) == ("failed", True)
    (applied,) = (text for text in primary.sent if "kind: Service" in text)
    assert applied.count("kind: Pod\n") == 1


def claims(**said: object) -> str:
    """A token's second part; of a service account unless ``said`` has another."""
    return base64.urlsafe_b64encode(json.dumps({"kubernetes.io": {}, **said}).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("started", "left"),
    [
        ("@1000\n@0\n@1000\n", 130),
        ("@1000\n@0\n@1030\n", 100),
        ("@1000\n@0\n@1130\n", 0),
        ("@1000\n@0\n@90000\n", 0),
        ("@1000\n@0\n@400\n", 0),  # the clock was set back
        ("\n@0\n@1000\n", 0),  # it is not running
        ("@n/a\n@0\n@1000\n", 0),
        ("", 0),
    ],
)
def test_clients_of_a_restarted_api_server_are_waited_for(
    started: str, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    answers: dict[str, Answer] = {
        "ActiveEnterTimestamp": started,
        "get endpointslices": items({"endpoints": [{}, {}, {}, {}]}),
    }
    primary = Kubelet(answers, reasons=["ContainerCreating"] * 5 + [""])
    found = run(primary, "kubelet.exec")
    assert found["kubelet.exec"].outcome == ("ok" if left else "not reached"), found
    if left:
        (line,) = primary.did("exec --stdin")
        assert int(line.rsplit(" ", 1)[1]) in range(7 + left - 5, 9 + left)


@pytest.mark.parametrize(
    ("ages", "known"),
    [
        ("@1000\n@1200\n@1210\n", True),
        ("@1000\n@1200\n@1600\n", False),  # it has read them again, and still does not know the kubelet
        ("@1000\n@900\n@1010\n", False),  # they are what it began with
        ("@1000\n@1200\n@1100\n", False),  # the clock was set back
    ],
)
def test_the_certificate_of_a_new_kubelet_is_waited_for(
    ages: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    unknown = Result(1, b"", "Error: tls: failed to verify certificate: x509: certificate signed by unknown authority")
    said = [unknown, unknown, *[Result(0, b"serving", "")] * 2]

    class Rereading(Primary):
        def answer(self, command: Command) -> Result:
            return said.pop(0) if " logs " in " ".join(command.argv) else super().answer(command)

    found = context(Rereading({"ActiveEnterTimestamp": ages}))
    found.pods = [Pod("probe", "node1", "", "")]
    if known:
        assert pods.logs(found) == ""
    else:
        with pytest.raises(Failed, match="unknown authority"):
            pods.logs(found)
        assert len(said) == 3


def context(primary: Primary) -> SmokeContext:
    return SmokeContext(INVENTORY, primary.connect, Options("i", "Never"), b"PEM", "space", ExitStack())


@pytest.mark.parametrize(
    ("check", "answers", "says"),
    [
        (control.api_ready, {"readyz": Result(1, b"", "[+]ping ok\n[-]etcd failed: no\n")}, "not ready: etcd"),
        (control.api_ready, {"readyz": Result(124, b"", "")}, "no answer in 10 s"),
        (control.api_anonymous, {"curl": "403"}, "answered 403"),
        (control.api_certificate, {"curl": Result(60, b"", CURL)}, "another certificate than keys/apiserver.crt"),
        (control.nodes_inventory, {"get nodes": items(node("x"))}, f"{NODE} is missing"),
        (control.nodes_inventory, {"get nodes": items(node(), node("x"))}, "x is not in inventory"),
        (
            control.nodes_ready,
            {"get nodes": items(node(condition={**READY, "status": "Unknown", "message": "gone"}))},
            "gone",
        ),
        (control.nodes_ready, {"get nodes": items({"metadata": {"name": "x"}, "status": {}})}, "x: has never reported"),
        (
            control.nodes_versions,
            {"/version": '{"gitVersion": "v1.34.2"}', "get nodes": items(node(version="v1.35.0"))},
            "has v1.35.0",
        ),
        (
            control.nodes_versions,
            {"/version": '{"gitVersion": "v1.34.2"}', "get nodes": items(node(version="v1.30.9"))},
            "has v1.30.9",
        ),
        (control.nodes_leases, {"get leases": items(lease(100)), "get nodes": items(node())}, "100 s old"),
        (
            SCHEDULER,
            {"is-active kube-scheduler": Result(3, b"failed\n", "")},
            "is failed",
        ),
        (
            CONTROLLERS,
            {"is-active kube-controller-manager": Result(4, b"", "")},
            "is unknown",
        ),
        (
            tokens.of_pods,
            {
                "kubelet": f"{claims(iss='https://a:1')}\n{claims(iss='https://a:1')}\n{claims(iss=ISSUER)}",
                "get nodes": items(node()),
            },
            "2 on node1 are of https://a:1",
        ),
        (pods.encrypted, {"etcdctl": "clear\nkey1\n"}, "begins with clear"),
        (pods.encrypted, {"etcdctl": "k8s:enc:secretbox:v1:old\nkey1\n"}, "v1:old, not k8s:enc:secretbox:v1:key1"),
    ],
)
def test_faults_are_seen_and_named(check: Work, answers: dict[str, Answer], says: str) -> None:
    made = context(Primary({**answers, "date": str(int(NOW.timestamp()))}))
    made.made = True
    with pytest.raises(SmallkubeError) as raised:
        check(made)
    assert says in raised.value.message


@pytest.mark.parametrize(
    ("check", "answers"),
    [
        (control.api_ready, {"readyz": "[+]ping ok"}),
        (control.api_anonymous, {"curl": "401"}),
        (control.api_certificate, {"curl": "401"}),
        (control.nodes_inventory, {"get nodes": items(node())}),
        (control.nodes_ready, {"get nodes": items(node())}),
        (
            control.nodes_versions,
            {"/version": '{"gitVersion": "v1.34.2"}', "get nodes": items(node(version="v1.31.0"))},
        ),
        (control.nodes_leases, {"get leases": items(lease(12)), "get nodes": items(node())}),
        (SCHEDULER, {"is-active": "active\n"}),
        (tokens.of_pods, {"kubelet": claims(iss=ISSUER), "get nodes": items(node())}),
        (tokens.of_pods, {"kubelet": "eyJ\n\nnull\nW10", "get nodes": items(node())}),
        (pods.encrypted, {"etcdctl": "k8s:enc:secretbox:v1:key1\nkey1\n"}),
    ],
)
def test_healthy_states_are_no_faults(check: Work, answers: dict[str, Answer]) -> None:
    made = context(Primary({**answers, "date": str(int(NOW.timestamp()))}))
    made.made = True
    check(made)


def test_tokens_of_a_previous_issuer_are_accepted_once_named() -> None:
    primary = Primary({"kubelet": claims(iss="https://old.example.com:6443"), "get nodes": items(node())})
    with pytest.raises(SmallkubeError, match=r"1 on node1 are of https://old\.example\.com:6443"):
        tokens.of_pods(context(primary))
    api = "api: {previous_issuers: ['https://old.example.com:6443']}"
    text = f"cluster: {{name: t, {api}}}\nnodes: {{node1: {{peer_ip: 192.0.2.1}}}}\n"
    made = replace(context(primary), inventory=parse(text, Path("inventory.yaml")))
    assert tokens.of_pods(made) == "1 tokens"


def test_tokens_leave_the_machine_without_their_signature(tmp_path: Path) -> None:
    folder = tmp_path / "uid/volumes/kubernetes.io~projected/kube-api-access-x"
    folder.mkdir(parents=True)
    (folder / "token").write_text(f"eyJ.{claims(iss=ISSUER)}.signature\n")
    (folder / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    (folder / "binary").write_bytes(b"eyJ.\0$(reboot).x")
    (folder / "theirs").write_text("eyJ.e30.signature")
    argv = ["sh", "-c", SCRIPTS.text("claims"), "claims", str(tmp_path)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert sorted(map(tokens.issuer, said.splitlines())) == ["", ISSUER]
    assert "signature" not in said
