"""Proves on a cluster in memory, with real keys/, that the removal of an administrator ends well from wherever it was
killed: nothing is encrypted to them, and nothing that they could read is used or accepted any more.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.models import Node
from smallkube.operations import admin_removal, admins, tokens, users
from smallkube.operations.admin_removal import ROTATIONS, Removal, task_of
from smallkube.operations.engine import Operation, Runbook
from smallkube.secrets import age, audit, client_certificates, exposed, policy, recipients, transaction
from smallkube.secrets.policy import Kind
from smallkube.secrets.transaction import changing_keys
from tests.unit.fake_cluster import FakeCluster, kills, run

BOB, RECIPIENT = age.new_identity()
FIRST = (
    "record in keys/exposed.json what bob could read",
    "remove bob from cluster.secrets.admins in inventory.yaml",
    "re-encrypt every secret without bob",
    "keys.rotate-wireguard: generate WireGuard keys for node1, node2",
    "keys.rotate-wireguard: deploy: all nodes in lockstep",
    "keys.rotate-wireguard: record that wgkube1.key, wgkube2.key can no longer be exposed",
)


class Company(FakeCluster):
    """The cluster of several administrators; a deploy brings certificates, too."""

    def deploy(self, nodes: Sequence[Node] | None = None, *words: Any, **options: Any) -> Any:
        reports = super().deploy(nodes, *words, **options)
        self.deploy_certificates(nodes)
        return reports


@pytest.fixture
def company(cluster: FakeCluster) -> Company:
    """Administered by the master and bob, who could both read the key of alice; all is deployed."""
    with changing_keys(cluster.workspace):
        admins.add(admins.plan_addition(cluster.cluster, "bob", RECIPIENT))
    with changing_keys(cluster.workspace):
        users.add(cluster.cluster, users.Wanted("alice"), datetime.now(UTC))
    return Company(cluster.workspace)


def removal(company: Company, name: str = "bob", *, back: bool = False) -> Removal:
    plan = admin_removal.make(company.cluster, name, company.master)
    cluster = plan.everyone if back else plan.others
    return Removal(cluster, company.master, company.connect, company.deploy, plan, overlap=0, seconds=0)


def operation(company: Company) -> Operation:
    return removal(company).operation(company.keys)


def remove(company: Company, kill_before: str | None = None) -> bool:
    return run(operation(company), company.keys, kill_before)


def plaintexts(company: Company, master: age.Master) -> dict[str, bytes]:
    """What this identity can read."""
    found = {}
    for row in policy.expected(company.inventory, company.keys.files):
        try:
            found[row.name] = transaction.opened(company.keys, master, row)
        except age.NotForMaster:
            continue
    return found


def bob() -> age.Master:
    return age.parse_master(BOB, "bob")


def assert_removed(company: Company, before: dict[str, bytes]) -> None:
    """``before``: what bob could read."""
    assert [*company.inventory.cluster.secrets.admins] == ["master"]
    assert plaintexts(company, bob()) == {}
    now = plaintexts(company, company.master)
    assert now.keys() == before.keys()
    assert not {*now.values()} & {*before.values()}
    assert RECIPIENT not in company.workspace.recipients_file.read_text() + company.workspace.secrets_nix.read_text()
    assert exposed.read(company.workspace) is None
    assert {*company.accepted, *company.used.values()} <= {*now.values()}
    (key,) = {name for name, _ in company.configuration.keys}
    assert {*company.objects.values()} == {key} != {"key1"}
    assert len(company.issuers) == 1 and {*company.pod_tokens.values()} == {*company.issuers}
    assert not [pem for pem in company.pinned if client_certificates.belongs(pem, before["user_alice.key"], "alice")]
    for node in company.inventory.nodes:
        assert company.shown[node.name] == company.keys.certificates
        assert company.peers[node.name] == company.peers["node1"]
    assert audit.check(company.cluster).problems == ()


def test_every_task_of_the_policy_has_its_rotation() -> None:
    assert {task_of(kind) for kind in Kind} == ROTATIONS.keys()


def test_the_printed_titles_are_the_steps_that_run(company: Company) -> None:
    titles = operation(company).titles(company.keys)
    assert titles[: len(FIRST)] == FIRST
    ran: list[str | None] = [*kills(company, operation(company))]
    assert ran == [*titles, None]


def test_killed_once_the_same_command_ends_it(company: Company) -> None:
    """Before every sixth step: the next test is killed before each."""
    before = plaintexts(company, bob())
    assert {*before} == {*(row.name for row in policy.secrets_of(company.inventory)), "user_alice.key"}
    for number, killed in enumerate(kills(company, operation(company))):
        company.read_all()
        if killed:
            begun = exposed.read(company.workspace) is not None
            assert operation(company).under_way(company.keys) is begun
            assert begun or killed == FIRST[0]
        if killed and number % 6 == 0:
            assert remove(company)
        if not killed or number % 6 == 0:
            assert_removed(company, before)


def test_killed_before_each_step_in_turn_it_ends(company: Company) -> None:
    before = plaintexts(company, bob())
    for title in operation(company).titles(company.keys):
        assert not remove(company, title)
        company.read_all()
    assert remove(company)
    assert_removed(company, before)


def test_killed_twice_it_ends_and_keeps_what_has_ended(company: Company) -> None:
    before = plaintexts(company, bob())
    titles = operation(company).titles(company.keys)
    for first in titles[4::11]:
        moment = company.moment()
        assert not remove(company, first)
        rest = operation(company).titles(company.keys)
        assert len(rest) <= len(titles)
        for second in rest[2::13]:
            between = company.moment()
            assert not remove(company, second)
            assert remove(company)
            assert_removed(company, before)
            company.go_back(between)
        company.go_back(moment)


def test_what_has_ended_is_not_rotated_again(company: Company) -> None:
    assert not remove(
        company, next(title for title in operation(company).titles(company.keys) if "encryption" in title)
    )
    rest = operation(company).titles(company.keys)
    assert not [title for title in rest if title.startswith(("keys.rotate-wireguard", "tokens.rotate"))]
    found = exposed.read(company.workspace)
    assert found and not [name for name in found.secrets if name.startswith(("wgkube", "kube_token"))]
    (problem,) = audit.check(company.cluster).problems
    assert (problem.file, problem.fix) == ("exposed.json", "inv admins.remove bob")


def test_aborted_before_a_rotation_bob_reads_all_again(company: Company) -> None:
    before, text = plaintexts(company, bob()), company.workspace.inventory_file.read_text()
    titles = operation(company).titles(company.keys)
    for killed in titles[1:5]:
        moment = company.moment()
        assert not remove(company, killed)
        for again in kills(company, removal(company, back=True).abort(company.keys)):
            if again:
                assert run(removal(company, back=True).abort(company.keys), company.keys)
            assert plaintexts(company, bob()).keys() == before.keys()
            assert company.workspace.inventory_file.read_text() == text
            assert audit.check(company.cluster).problems == ()
        company.go_back(moment)


@pytest.mark.parametrize("part", ["tokens.rotate: deploy", "keys.rotate-issuer: deploy"])
def test_once_a_secret_is_replaced_it_is_not_aborted(part: str, company: Company) -> None:
    titles = operation(company).titles(company.keys)
    assert not remove(company, next(title for title in titles if title.startswith(part)))
    with pytest.raises(UsageError, match="secrets that bob could read are being replaced already"):
        removal(company, back=True).abort(company.keys)


def test_nothing_under_way_is_not_aborted(company: Company) -> None:
    with pytest.raises(UsageError, match="no rotation that can be aborted is under way"):
        removal(company, back=True).abort(company.keys)


def test_a_rotation_of_another_command_ends_first(company: Company) -> None:
    users = policy.tokens(company.inventory)
    rotation = tokens.Rotation(company.cluster, company.master, company.connect, company.deploy, users, 0)
    other = rotation.operation(company.keys, abort=False)
    assert not run(other, company.keys, "verify that both are accepted")
    with pytest.raises(UsageError, match=r"a rotation is under way; complete or abort it first: inv tokens\.rotate"):
        operation(company)


def test_who_can_not_be_removed(company: Company) -> None:
    with pytest.raises(UsageError, match="no administrator 'eve'; there are master, bob"):
        removal(company, "eve")
    with pytest.raises(UsageError, match="is no identity of another administrator than master"):
        removal(company, "master")
    assert not remove(company, FIRST[3])
    with pytest.raises(UsageError, match="the removal of bob is under way"):
        removal(company, "master")
    with pytest.raises(UsageError, match="the removal of bob is under way"):
        admins.plan_addition(company.cluster, "rob", RECIPIENT)
    assert remove(company)
    with pytest.raises(UsageError, match="master is the last administrator"):
        removal(company, "master")


def test_a_file_that_bob_can_still_read_stops_it(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runbook, "update_keys", lambda _: None)
    operation_ = operation(company)
    last = [title for title in operation_.titles(company.keys) if title.startswith("verify")]
    monkeypatch.setattr(transaction, "examined", lambda *_: [stale(company)])
    with pytest.raises(
        SmallkubeError, match=r"not encrypted to the administrators that are left: kube_token_root\.age"
    ):
        next(step for step in operation_.steps if step.title == last[0]).run()


def stale(company: Company) -> recipients.Finding:
    row = next(row for row in policy.secrets_of(company.inventory) if row.name == "kube_token_root")
    return recipients.Finding(row, recipients.State.WRONG_SET, recipients.Proof.RECORDED, ("bob can read it",))
