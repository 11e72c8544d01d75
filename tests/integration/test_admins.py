"""Several administrators on real keys/: each opens every file with their own identity, and keys.check verifies it."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from smallkube.core.workspace import Workspace
from smallkube.inventory.load import load
from smallkube.operations import admins, master
from smallkube.secrets import age
from smallkube.secrets.transaction import changing_keys
from tests import age_plugin
from tests.conftest import require
from tests.integration.conftest import PreparedWorkspace
from tests.integration.crash import assert_sound, kills, plaintexts

SECRET = bytes(range(32))


Team = dict[str, tuple[Path, str]]
"""Identity file and recipient of each administrator but the master."""


@pytest.fixture(scope="module")
def path() -> Iterator[None]:
    """A plugin of age is in PATH."""
    with pytest.MonkeyPatch.context() as patched, tempfile.TemporaryDirectory() as folder:
        age_plugin.install(Path(folder))
        patched.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture(scope="module")
def template(path: None, generated: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Team]:
    """A copy of ``generated`` with administrators of every kind, and these."""
    require("integration", shutil.which("age"), "age (age)")
    folder = tmp_path_factory.mktemp("company")
    shutil.copytree(generated, folder, dirs_exist_ok=True)
    made = PreparedWorkspace(Workspace(folder / "ws"), folder / "ws-private")
    text, recipient = age.new_identity()
    (folder / "anna").write_text(text)
    (folder / "carl").write_text(age_plugin.identity_file(SECRET))
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bob@here", "-f", str(folder / "bob")]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    for name in ("anna", "carl"):
        (folder / name).chmod(0o600)
    recipients = {
        "anna": recipient,
        "bob": (folder / "bob.pub").read_text().strip(),
        "carl": age_plugin.recipient(SECRET),
    }
    for name, each in recipients.items():
        made.done("admins.add", name, "--recipient", each)
    return folder, {name: (folder / name, each) for name, each in recipients.items()}


@pytest.fixture
def team(template: tuple[Path, Team]) -> Team:
    return template[1]


@pytest.fixture
def company(template: tuple[Path, Team], tmp_path: Path) -> PreparedWorkspace:
    """The workspace, administered by the master and all of them; the test's own copy."""
    shutil.copytree(template[0], tmp_path / "company")
    return PreparedWorkspace(Workspace(tmp_path / "company/ws"), tmp_path / "company/ws-private")


def opened(identity: Path, file: Path) -> bytes:
    return subprocess.run(["age", "-d", "-i", str(identity), str(file)], capture_output=True, check=True).stdout


def encrypt(file: Path, plaintext: bytes, *recipients: str) -> None:
    """With another program than smallkube."""
    argv = ["age", *(word for each in recipients for word in ("-r", each))]
    file.write_bytes(subprocess.run(argv, input=plaintext, capture_output=True, check=True).stdout)


def listed(cluster: Any, **environment: str) -> dict[str, Any]:
    return {row["name"]: row for row in json.loads(cluster.done("admins.list", "--json", **environment))}


def rekeyed(cluster: Any) -> list[str]:
    return [row["file"] for row in json.loads(cluster.done("keys.rekey", "--json"))["rekeyed"]]


def test_each_identity_opens_every_file(company: Any, team: Team) -> None:
    secret = plaintexts(company)
    for name, (identity, recipient) in team.items():
        for file, plaintext in secret.items():
            assert opened(identity, company.keys / file) == plaintext, (name, file)
        environment = {"SMALLKUBE_IDENTITY": str(identity)}
        report = json.loads(company.done("keys.check", "--json", **environment))
        assert report["problems"] == []
        assert {row["proof"] for row in report["proofs"]} == {"decrypted"}
        assert company.done("keys.show", "kube_token_root", **environment).encode() == secret["kube_token_root.age"]
        rows = listed(company, **environment)
        assert [each for each, row in rows.items() if row["here"]] == [name]
        assert rows[name]["recipient"] in recipient
    assert company.problems() == {}
    kinds = {"master": "age", "anna": "age", "bob": "SSH", "carl": "age plugin"}
    assert {name: row["kind"] for name, row in listed(company).items()} == kinds
    assert not (company.keys / age.MASTER_RECIPIENT).exists()


def test_an_identity_that_others_can_read_is_reported(company: Any, tmp_path: Path, team: Team) -> None:
    shutil.copy(team["anna"][0], tmp_path / "anna")
    (tmp_path / "anna").chmod(0o640)
    run = company.inv("keys.check", SMALLKUBE_IDENTITY=str(tmp_path / "anna"))
    assert run.returncode == 1
    assert "mode 0640: others can read this identity" in run.stdout


def test_adding_again_changes_nothing(company: Any, team: Team) -> None:
    before, text = company.snapshot(), company.workspace.inventory_file.read_text()
    said = json.loads(company.done("admins.add", "bob", "--recipient", team["bob"][1], "--json"))
    assert (said["inventory"], said["rekeyed"]) == ("unchanged", [])
    assert (company.snapshot(), company.workspace.inventory_file.read_text()) == (before, text)


@pytest.mark.parametrize(
    ("name", "recipient", "said"),
    [
        ("bob", "anna", "the administrator bob has another recipient"),
        ("rob", "bob", "cluster.secrets.admins.rob: is the recipient of bob already"),
        ("Rob", "other", "cluster.secrets.admins.Rob: does not have the form"),
        ("node1", "other", "node1 is the name of a node"),
    ],
)
def test_who_can_not_be_added(name: str, recipient: str, said: str, company: Any, team: Team) -> None:
    text = company.workspace.inventory_file.read_text()
    known = {who: each for who, (_, each) in team.items()} | {"other": age.new_identity()[1]}
    assert said in company.refused("admins.add", name, "--recipient", known[recipient])
    assert company.workspace.inventory_file.read_text() == text


def test_a_node_is_no_administrator(ready: Any) -> None:
    public = (ready.workspace.hosts_keys_dir / "node1.pub").read_text().strip()
    assert "eve: is the host key of node1" in ready.refused("admins.add", "eve", "--recipient", public)
    assert "--recipient: an SSH key of the type ssh-rsa" in ready.refused(
        "admins.add", "eve", "--recipient", "ssh-rsa AAAA"
    )


def test_a_plugin_that_is_missing_changes_nothing(ready: Any) -> None:
    text = ready.workspace.inventory_file.read_text()
    before = ready.snapshot()
    run = ready.inv("admins.add", "carl", "--recipient", age_plugin.recipient(SECRET), PATH="/usr/bin:/bin")
    assert (run.returncode, ready.snapshot()) == (2, before)
    assert run.stderr.startswith("age-plugin-smallkubetest: not found in PATH; install this age plugin")
    assert ready.workspace.inventory_file.read_text() == text


def test_a_dry_run_says_what_and_changes_nothing(ready: Any, team: Team) -> None:
    before, text = ready.snapshot(), ready.workspace.inventory_file.read_text()
    said = ready.done("admins.add", "bob", "--recipient", team["bob"][1], "--dry-run")
    assert "would re-encrypt keys/kube_token_root.age" in said
    assert (ready.snapshot(), ready.workspace.inventory_file.read_text()) == (before, text)


@pytest.mark.parametrize(
    ("without", "fault"),
    [
        ("bob", "bob can't read it"),
        ("anna", "it has 1 native recipients instead of those of master, anna"),
        ("carl", "it has 0 recipients of age plugins instead of those of carl"),
    ],
)
def test_a_file_without_one_of_them_is_found_and_fixed(without: str, fault: str, company: Any, team: Team) -> None:
    file = company.keys / "kube_token_root.age"
    plaintext = opened(company.workspace.master_key, file)
    admins_ = [row["recipient"] for name, row in listed(company).items() if name != without]
    host = (company.workspace.hosts_keys_dir / "node1.pub").read_text().strip()
    encrypt(file, plaintext, *admins_, host)
    company.workspace.master_key.rename(company.private / "away")
    found, fix = company.problems()["kube_token_root.age"]
    assert fault in found and fix == "inv keys.rekey"
    cannot = {name for name, row in listed(company).items() if row["unreadable"]}
    assert cannot == ({without} if without != "anna" else set()), "anonymous recipients are only counted"
    (company.private / "away").rename(company.workspace.master_key)
    assert rekeyed(company) == ["kube_token_root.age"]
    assert company.problems() == {}
    assert opened(team[without][0], file) == plaintext


def test_a_stranger_in_the_place_of_one_is_not_recorded(company: Any, team: Team) -> None:
    file = company.keys / "kube_token_root.age"
    plaintext = opened(company.workspace.master_key, file)
    rows = {name: row["recipient"] for name, row in listed(company).items()} | {"anna": age.new_identity()[1]}
    host = (company.workspace.hosts_keys_dir / "node1.pub").read_text().strip()
    encrypt(file, plaintext, *rows.values(), host)
    assert listed(company)["anna"]["unknown"] == ["kube_token_root"]
    assert "whether anna, carl can read it is not recorded" in company.problems()["kube_token_root.age"][0]
    assert rekeyed(company) == ["kube_token_root.age"]
    assert opened(team["anna"][0], file) == plaintext
    assert company.problems() == {}


def test_a_new_administrator_by_hand_is_reported(ready: Any, team: Team) -> None:
    recipients = {"master": (ready.keys / age.MASTER_RECIPIENT).read_text().strip(), "anna": team["anna"][1]}
    ready.write_inventory((1, 2), secrets={"admins": recipients})
    assert ready.problems()["kube_token_root.age"] == ("anna can't read it", "inv keys.rekey")
    assert ready.problems()[age.MASTER_RECIPIENT][1] == "inv keys.generate"
    assert len(rekeyed(ready)) == len(plaintexts(ready))
    assert ready.problems() == {}


def test_generation_needs_none_of_the_private_keys(company: Any, team: Team) -> None:
    company.workspace.master_key.rename(company.private / "away")
    (company.keys / "kube_token_root.age").unlink()
    assert json.loads(company.done("keys.generate", "--json"))["created"] == ["kube_token_root.age"]
    assert not company.workspace.master_key.exists()
    texts = {opened(identity, company.keys / "kube_token_root.age") for identity, _ in team.values()}
    assert len(texts) == 1


def test_a_new_workspace_of_administrators_has_no_master(make_cluster: Callable[..., Any]) -> None:
    text, recipient = age.new_identity()
    fresh = make_cluster((1,), secrets={"admins": {"anna": recipient}})
    fresh.done("keys.generate")
    assert not list(fresh.keys.glob("master_key*"))
    (fresh.private / "anna").write_text(text)
    assert len(fresh.done("keys.show", "kube_token_root", SMALLKUBE_IDENTITY=str(fresh.private / "anna"))) > 60
    assert fresh.problems() == {}


def test_an_identity_of_no_administrator(company: Any, tmp_path: Path) -> None:
    (tmp_path / "eve").write_text(age.new_identity()[0])
    environment = {"SMALLKUBE_IDENTITY": str(tmp_path / "eve")}
    run = company.inv("keys.rekey", **environment)
    assert run.returncode == 2
    assert "belongs to no administrator in cluster.secrets.admins; there are master, anna, bob, carl" in run.stderr
    run = company.inv("keys.show", "kube_token_root", **environment)
    assert (run.returncode, f"{tmp_path}/eve can't open it" in run.stderr) == (1, True), run.stderr
    run = company.inv("keys.check", SMALLKUBE_IDENTITY=str(tmp_path / "none"))
    assert (run.returncode, "SMALLKUBE_IDENTITY=" in run.stderr) == (2, True)


def test_killed_before_each_change_an_addition_resumes(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a killed process loses nothing that it has written
    text, recipient = age.new_identity()
    secret, anna = plaintexts(ready), age.parse_master(text, "anna")
    known: list[dict[str, bytes]] = []
    last = 0
    for step in kills(ready.workspace.root, partial(add, ready, recipient)):
        add(ready, recipient)
        assert {file: age.decrypt((ready.keys / file).read_bytes(), anna, file) for file in secret} == secret
        assert [*load(ready.workspace.inventory_file).cluster.secrets.admins] == ["master", "anna"]
        assert_sound(ready, known)
        last = max(last, step)
    assert last > 15


def add(cluster: Any, recipient: str) -> None:
    with changing_keys(cluster.workspace):
        admins.add(admins.plan_addition(cluster.cluster, "anna", recipient))


def rotate(cluster: Any) -> None:
    with changing_keys(cluster.workspace):
        master.act(cluster.cluster, master.plan(cluster.cluster))


def test_a_rotated_master_keeps_its_place(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    text, recipient = age.new_identity()
    add(ready, recipient)
    secret, anna, old = plaintexts(ready), age.parse_master(text, "anna"), age.read_master(ready.workspace)
    known: list[dict[str, bytes]] = []
    assert old
    for _ in kills(ready.workspace.root, partial(rotate, ready)):
        rotate(ready)
        new = age.read_master(ready.workspace)
        assert new and new.recipients[1:] == old.recipients
        assert dict(ready.inventory.cluster.secrets.admins) == {"master": new.recipient, "anna": recipient}
        for identity in (anna, new.only(new.recipient)):
            assert {file: age.decrypt((ready.keys / file).read_bytes(), identity, file) for file in secret} == secret
        with pytest.raises(age.NotForMaster):
            age.decrypt((ready.keys / "kube_token_root.age").read_bytes(), old, "x")
        assert_sound(ready, known)


def test_other_identities_than_the_master_are_not_rotated(company: Any, team: Team) -> None:
    run = company.inv("keys.rotate-master", "--yes", SMALLKUBE_IDENTITY=str(team["anna"][0]))
    assert (run.returncode, "SMALLKUBE_IDENTITY: a rotation replaces keys/master_key" in run.stderr) == (2, True)
    shutil.copy(team["bob"][0], company.workspace.master_key)
    assert "only age's own identities are rotated" in company.refused("keys.rotate-master", "--yes")
