"""Proves which versions may follow what and stand beside each other, and how all findings decide about an upgrade."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from smallkube.core.errors import SmallkubeError
from smallkube.etcd.record import Record, timestamp
from smallkube.etcd.status import Status
from smallkube.inventory import releases
from smallkube.inventory.load import parse as parse_inventory
from smallkube.inventory.models import Inventory
from smallkube.kube import versions
from smallkube.kube.kubectl import Api
from smallkube.kube.members import Member
from smallkube.kube.versions import Deprecated
from smallkube.operations import upgrade_check as upgrade
from smallkube.operations.cluster_facts import Facts, Machine, Running
from smallkube.operations.upgrade_check import Readiness

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("target", "server", "word"),
    [
        ("1.34", "v1.34.2", ""),
        ("1.34", "v1.34.99", ""),
        ("1.35", "v1.34.2", ""),
        ("1.36", "v1.34.2", ""),
        ("1.33", "v1.34.2", "no rollback to 1.33"),
        ("1.9", "v1.10.0", "no rollback to 1.9"),
        ("1.10", "v1.9.0", ""),
        ("1.35", "v1.34.2+vendor1", ""),
        ("1.35", "v1.35.0-rc.1", ""),
    ],
)
def test_the_api_server_goes_up_and_never_down(target: str, server: str, word: str) -> None:
    found = list(versions.step(target, server))
    assert len(found) == bool(word)
    assert not word or word in found[0]


@pytest.mark.parametrize(
    ("target", "server", "other", "word"),
    [
        ("1.34", "v1.34.2", "v1.34.2", ""),
        ("1.35", "v1.34.2", "v1.34.9", ""),
        ("1.35", "v1.34.2", "v1.32.9", ""),
        ("1.35", "v1.34.2", "v1.31.0", "more than 3 minors behind 1.35"),
        ("1.34", "v1.34.2", "v1.31.0", ""),
        ("1.34", "v1.34.2", "v1.30.14", "more than 3 minors behind 1.34"),
        ("1.34", "v1.34.2", "v1.35.0", "the primary comes first"),
        ("1.35", "v1.34.2", "v1.35.0", "the primary comes first"),
    ],
)
def test_nothing_is_ahead_of_the_api_server_or_far_behind(target: str, server: str, other: str, word: str) -> None:
    found = list(versions.skew(target, server, {"kubelet on node2": other, "kube-proxy on node2": server}))
    assert len(found) == bool(word)
    assert not word or (word in found[0] and "kubelet on node2" in found[0])


@pytest.mark.parametrize("text", ["", "1", "2.3", "v1.x", "latest", "v1.34x"])
def test_what_is_no_version_is_an_error(text: str) -> None:
    with pytest.raises(SmallkubeError, match="no version of Kubernetes"):
        versions.minor(text)


def test_deprecated_apis_are_read_from_the_metrics() -> None:
    metric = "apiserver_requested_deprecated_apis"
    lines = (
        f"# TYPE {metric} gauge",
        f'{metric}{{group="",removed_release="",resource="endpoints",subresource="",version="v1"}} 1',
        f'{metric}{{group="apps",removed_release="1.40",resource="things",subresource="status",version="v1beta1"}} 1',
        f'{metric}_other{{group="x",removed_release="1.41",resource="y",version="v1"}} 1',
    )
    assert versions.deprecated("\n".join(lines)) == (
        Deprecated("apps/v1beta1/things/status", "1.40"),
        Deprecated("v1/endpoints", ""),
    )


def inventory(kubernetes: str = "1.35") -> Inventory:
    nodes = "{node1: {peer_ip: 192.0.2.1}, node2: {peer_ip: 192.0.2.2}}"
    text = f'cluster: {{name: test, kubernetes: "{kubernetes}"}}\nnodes: {nodes}\n'
    return parse_inventory(text, Path("inventory.yaml"))


def machine(**versions: str) -> Machine[Readiness]:
    programs = {name.replace("_", "-"): version for name, version in versions.items()}
    programs = {"kubelet": "v1.34.2", "kube-proxy": "v1.34.2", **programs}
    return Machine(Readiness(50 << 20), Running("6.12", programs))


def record(age: timedelta) -> Record:
    created = timestamp(NOW - age)
    return Record(
        name="b",
        cluster="test",
        sequence=1,
        created=created,
        revision=1,
        size=1,
        snapshot_sha256="",
        stored_size=1,
        stored_sha256="",
        etcd="3.6.6",
        recipient="age1",
        verified=created,
    )


def healthy() -> Facts[Readiness]:
    members = {f"node{number}.k8s.internal": Member(True, False, False, "v1.34.2") for number in (1, 2)}
    return Facts(
        api=Api("v1.34.2", (), members),
        etcd=Status("3.6.6", 1, 1 << 20, 1 << 20, 2 << 30, 2, 5, True, (), ()),
        deprecated=(),
        machines={"node1": machine(kube_apiserver="v1.34.2"), "node2": machine()},
        backup=record(timedelta(hours=1)),
    )


def results(facts: Facts[Readiness], kubernetes: str = "1.35") -> dict[str, str]:
    """What is not ok: check → "RESULT: DETAIL"."""
    findings = upgrade.check(inventory(kubernetes), facts, NOW)
    return {each.check: f"{each.result}: {each.detail}" for each in findings if each.result != "ok"}


def test_a_healthy_cluster_may_go_one_minor_up() -> None:
    assert results(healthy()) == {}
    checks = [each.check for each in upgrade.check(inventory(), healthy(), NOW)]
    assert checks == [
        "API server", "minor step", "version skew", "nodes", "machines", "etcd", "etcd versions", "disruption budgets",
        "backup", "deprecated APIs",
    ]  # fmt: skip


def test_the_whole_way_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(healthy(), "minor step") == ["from v1.34.2 to 1.35, then 1.36"]
    assert results(healthy(), "1.36") == {}
    monkeypatch.setattr(releases, "PINS", {"1.36": releases.PINS["1.36"]})
    found = results(healthy(), "1.36")
    assert list(found) == ["minor step"]
    assert "no revision of nixpkgs with 1.35, which comes before 1.36, is known here; set cluster." in str(found)


def test_a_lower_minor_is_refused() -> None:
    facts = replace(healthy(), api=replace(healthy().api, version="v1.36.0"))
    assert results(facts)["minor step"].startswith("failed: the API server is v1.36.0: no rollback to 1.35")


NODE2 = (healthy().api.members or {})["node2.k8s.internal"]
ETCD = healthy().etcd
assert isinstance(ETCD, Status)
FULL = replace(machine(), facts=Readiness(50 << 20, ("only 1 MiB free in /nix/store",)))


def node2(seen: Machine[Readiness] | SmallkubeError) -> Facts[Readiness]:
    return replace(healthy(), machines={**healthy().machines, "node2": seen})


def members(**more: Member) -> Facts[Readiness]:
    named = {f"{name}.k8s.internal": member for name, member in more.items()}
    return replace(healthy(), api=replace(healthy().api, members=named))


def asked_for(api: str, removed: str) -> Facts[Readiness]:
    return replace(healthy(), deprecated=(Deprecated(api, removed),))


@pytest.mark.parametrize(
    ("facts", "check", "word"),
    [
        (node2(machine(kube_proxy="v1.31.4")), "version skew", "failed: kube-proxy on node2.k8s.internal has v1.31.4"),
        (node2(machine(kubelet="v1.35.0")), "version skew", "failed: kubelet on node2.k8s.internal has v1.35.0, newer"),
        (node2(machine(kubelet="")), "version skew", "failed: kubelet on node2.k8s.internal does not run"),
        (
            members(node1=NODE2, node2=replace(NODE2, ready=False)),
            "nodes",
            "failed: node2.k8s.internal is not Ready",
        ),
        (members(node1=NODE2), "nodes", "failed: node2.k8s.internal is not in the cluster"),
        (
            members(node1=NODE2, node2=NODE2, node9=replace(NODE2, kubelet="v1.31.0")),
            "version skew",
            "failed: kubelet on node9.k8s.internal has v1.31.0",
        ),
        (replace(healthy(), api=replace(healthy().api, failing=("etcd",))), "API server", "failed: is not ready: etcd"),
        (node2(FULL), "machines", "failed: node2: only 1 MiB free"),
        (node2(SmallkubeError("no route")), "machines", "failed: node2: no route"),
        (replace(healthy(), etcd=replace(ETCD, alarms=("NOSPACE",))), "etcd", "failed: alarm NOSPACE"),
        (replace(healthy(), etcd=SmallkubeError("etcd does not answer")), "etcd", "failed: etcd does not answer"),
        (replace(healthy(), backup=None), "backup", "warning: none here"),
        (replace(healthy(), backup=record(timedelta(days=1, seconds=1))), "backup", "warning: the newest verified one"),
        (replace(healthy(), budgets=("default/web",)), "disruption budgets", "failed: default/web allows no pod"),
        (asked_for("a/v1/b", "1.35"), "deprecated APIs", "failed: a/v1/b (gone in 1.35)"),
        (asked_for("a/v1/b", "1.36"), "deprecated APIs", "warning: a/v1/b (gone in 1.36)"),
        (replace(healthy(), deprecated=SmallkubeError("x")), "deprecated APIs", "warning: not known"),
    ],
)
def test_each_fault_is_found_and_no_other(facts: Facts[Readiness], check: str, word: str) -> None:
    found = results(facts)
    assert list(found) == [check]
    assert found[check].startswith(word)


def test_what_no_release_removes_is_named_only() -> None:
    facts = replace(healthy(), deprecated=(Deprecated("v1/endpoints", ""),))
    assert results(facts) == {}
    assert "v1/endpoints" in upgrade.check(inventory(), facts, NOW)[-1].detail


def outcome(facts: Facts[Readiness], check: str) -> Sequence[str]:
    return [each.detail for each in upgrade.check(inventory("1.36"), facts, NOW) if each.check == check]


def test_without_the_api_server_its_program_is_compared() -> None:
    facts = replace(healthy(), api=Api())
    assert outcome(facts, "API server") == ["does not answer"]
    assert outcome(facts, "minor step") == ["from v1.34.2 to 1.35, then 1.36"]


def test_without_the_primary_nothing_is_guessed() -> None:
    error = SmallkubeError("unreachable")
    facts = replace(
        healthy(),
        api=Api(),
        etcd=error,
        deprecated=error,
        budgets=error,
        machines={**healthy().machines, "node1": error},
    )
    assert outcome(facts, "minor step") == ["which version runs is not known"]
    assert set(results(facts)) == {
        "API server", "minor step", "version skew", "nodes", "machines", "etcd", "disruption budgets",
        "deprecated APIs",
    }  # fmt: skip
