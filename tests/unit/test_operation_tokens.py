"""Proves on a cluster in memory, with real keys/, that a rotation of tokens ends well from wherever it was killed."""

from collections.abc import Sequence
from typing import Any

import pytest

from smallkube.cli.context import Current
from smallkube.cli.output import Runner
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory.models import Node
from smallkube.operations import engine, tokens
from smallkube.operations.engine import Operation
from smallkube.remote.host import Command, Result
from smallkube.secrets import policy, transaction
from smallkube.secrets.recipients import read_records
from tests import extra_rows
from tests.unit.fake_cluster import FakeCluster, Killed, generate_keys, kills, run

CHOSEN = ("kube-scheduler", "agent-node2")


@pytest.fixture
def cluster(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """One with a token on each node."""
    extra_rows.add_to_policy(monkeypatch)
    generate_keys(cluster.workspace)
    return FakeCluster(cluster.workspace)


def operation(
    cluster: FakeCluster, wanted: Sequence[str] = CHOSEN, *, abort: bool = False, seconds: int = 0
) -> Operation:
    everybody, off = policy.tokens(cluster.inventory), cluster.off
    chosen, _ = tokens.affected(
        cluster.keys, {user: everybody[user] for user in wanted if user in everybody}, everybody, off
    )
    rotation = tokens.Rotation(cluster.cluster, cluster.master, cluster.connect, cluster.deploy, chosen, seconds, off)
    return rotation.operation(cluster.keys, abort=abort)


def rotate(cluster: FakeCluster, kill_before: str | None = None, *, abort: bool = False) -> bool:
    return run(operation(cluster, abort=abort), cluster.keys, kill_before)


def current(cluster: FakeCluster) -> dict[str, bytes]:
    return {
        user: transaction.opened(cluster.keys, cluster.master, row)
        for user, row in policy.tokens(cluster.inventory).items()
    }


def versions(cluster: FakeCluster) -> list[str]:
    files = cluster.keys.files
    return [
        row.file for secret in policy.tokens(cluster.inventory).values() for row in secret.versions if row.file in files
    ]


@pytest.mark.parametrize("off_after", [None, 1, 2, 4, 5, 6])
def test_a_machine_that_is_off_keeps_only_its_own_token(off_after: int | None, cluster: FakeCluster) -> None:
    before = current(cluster)
    if off_after:
        rotate(cluster, titles()[off_after])
    cluster.off.add("node2")
    assert rotate(cluster)
    accepted = {user: before[user] in cluster.accepted for user in CHOSEN}
    assert not accepted["kube-scheduler"]
    assert cluster.used["agent-node2"] in cluster.accepted
    with pytest.raises(
        UsageError, match="agent-node2 can't be reached, to get a new token; run the same command again"
    ):
        operation(cluster, ["agent-node2"])
    cluster.off.clear()
    assert rotate(cluster)
    assert before["agent-node2"] not in cluster.accepted
    assert not versions(cluster)


def titles() -> list[str]:
    """Of a whole rotation, and None for one that is not killed."""
    names = ", ".join(CHOSEN)
    return [
        f"generate tokens for {names}, keep the previous",
        "deploy: both versions are accepted, clients use the current one",
        "verify that both are accepted",
        "wait until every client uses the current one",
        "retire the other version",
        "deploy: only the current one is accepted",
        "verify that the retired one is refused",
        engine.REACHED,
        "delete the retired version",
    ]


def test_the_printed_titles_are_the_steps_that_run(cluster: FakeCluster) -> None:
    assert operation(cluster).titles(cluster.keys) == tuple(titles())


def assert_rotated(cluster: FakeCluster, before: dict[str, bytes]) -> None:
    """Exactly the chosen have another token, which alone is accepted, and the previous was seen refused."""
    after = current(cluster)
    assert {name for name in after if after[name] != before[name]} == {*CHOSEN}
    assert versions(cluster) == []
    assert cluster.accepted == {*after.values()}
    assert cluster.used == after
    assert {(before[name].strip(), False) for name in CHOSEN} <= {*cluster.answers}


@pytest.mark.parametrize("first", titles())
def test_killed_twice_the_same_command_ends_the_rotation(first: str, cluster: FakeCluster) -> None:
    before = current(cluster)
    assert not rotate(cluster, first)
    for second in kills(cluster, operation(cluster)):
        assert not second or rotate(cluster)
        assert_rotated(cluster, before)


@pytest.mark.parametrize("killed", titles()[1:5])
def test_aborted_before_retirement_the_previous_token_stays(killed: str, cluster: FakeCluster) -> None:
    before = current(cluster)
    rotate(cluster, killed)
    between = current(cluster)
    for again in kills(cluster, operation(cluster, abort=True)):
        if again not in (None, *titles()[1:]):
            continue
        assert not again or rotate(cluster)
        assert current(cluster) == cluster.used == before
        assert cluster.accepted == {*before.values()}
        assert versions(cluster) == []
        assert {(between[name].strip(), False) for name in CHOSEN} <= {*cluster.answers}


@pytest.mark.parametrize("killed", [None, *titles()[5:]])
def test_what_is_retired_is_not_made_current_again(killed: str | None, cluster: FakeCluster) -> None:
    rotate(cluster, killed)
    with pytest.raises(UsageError, match="no rotation that can be aborted"):
        operation(cluster, abort=True)


def test_a_node_that_lost_the_api_service_is_named(cluster: FakeCluster) -> None:
    before = current(cluster)
    cluster.without_service = {"node2"}
    with pytest.raises(SmallkubeError, match=r"^no answer at the cluster IP of the API server \(10\.88\.0\.1\): node2"):
        rotate(cluster)
    assert cluster.restarted == ["node2"]
    cluster.without_service.clear()
    assert rotate(cluster)
    assert_rotated(cluster, before)


def test_kube_proxy_is_restarted_where_it_lost_the_api(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = cluster._answer

    def restart(node: Node, command: Command) -> Result:
        if command.argv == ("systemctl", "try-restart", "kube-proxy.service"):
            cluster.without_service.discard(node.name)
        return answer(node, command)

    monkeypatch.setattr(cluster, "_answer", restart)
    before, cluster.without_service = current(cluster), {"node2"}
    assert run(operation(cluster, seconds=10), cluster.keys)
    assert cluster.restarted == ["node2"]
    assert_rotated(cluster, before)


def test_a_rotation_under_way_is_ended_alone(cluster: FakeCluster) -> None:
    before = current(cluster)
    rotate(cluster, titles()[2])
    assert run(operation(cluster, ["root"]), cluster.keys)
    assert_rotated(cluster, before)


def test_a_retired_token_is_delivered_nowhere(cluster: FakeCluster) -> None:
    rotate(cluster, titles()[5])
    (first, second) = versions(cluster)
    assert first.endswith(".retired.age") and second.endswith(".retired.age")
    assert ".retired" in cluster.workspace.secrets_nix.read_text()
    record = read_records(cluster.workspace)[first]
    assert len(record.recipients) == 1


def test_a_client_that_keeps_the_previous_token_is_named(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(cluster.used)
    take_up = cluster.deploy

    def deploy(nodes: Sequence[Node] | None = None) -> None:
        take_up(nodes)
        cluster.used["agent-node2"] = before["agent-node2"]

    monkeypatch.setattr(cluster, "deploy", deploy)
    with pytest.raises(SmallkubeError, match="agent on node2"):
        rotate(cluster)
    assert all(".old" in name for name in versions(cluster))


def test_a_previous_token_that_is_still_accepted_fails(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    before = current(cluster)["agent-node2"]
    answer = cluster._answer

    def generous(node: object, command: Command) -> Result:
        cluster.accepted.add(before)
        return answer(node, command)  # type: ignore[arg-type]

    monkeypatch.setattr(cluster, "_answer", generous)
    with pytest.raises(SmallkubeError, match=r"kube_token_agent_node2\.retired is accepted, not refused"):
        rotate(cluster)
    assert {name for name in versions(cluster) if "node2" in name} == {"kube_token_agent_node2.retired.age"}


def test_a_change_of_keys_that_was_killed_is_completed_first(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = transaction.complete

    def killed(workspace: Workspace, *begun: Any) -> tuple[str, ...]:
        if (workspace.state_dir / "keys-change.json").exists():
            raise Killed
        return complete(workspace, *begun)

    with monkeypatch.context() as patch:
        patch.setattr(transaction, "complete", killed)
        assert not rotate(cluster)
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(cluster.workspace.root))
    keys = Runner(Current(yes=True), "tokens").keys
    assert operation(cluster).titles(keys) == tuple(titles()[1:])


def test_a_missing_token_is_named(cluster: FakeCluster) -> None:
    (cluster.workspace.keys_dir / "kube_token_root.age").unlink()
    with pytest.raises(UsageError, match=r"kube_token_root\.age"):
        operation(cluster, ["root"])
