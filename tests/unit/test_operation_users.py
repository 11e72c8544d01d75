"""Adding and removing people against a primary in memory: what is in keys/, what is sent there, and in which order."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyrage
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pyrage import x25519

from smallkube.cli.program import main
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.deploy import facts, preflight
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.inventory.models import Node
from smallkube.kube import audit_log
from smallkube.operations import identities
from smallkube.remote import ssh
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.host import Command, Result
from smallkube.secrets import client_certificates, people, transaction
from tests.unit.fake_cluster import Killed, generate_keys

INVENTORY = "cluster: {name: test}\nnodes: {node1: {peer_ip: 192.0.2.1}, node2: {peer_ip: 192.0.2.2}}\n"
Run = Callable[..., tuple[int, str, str]]


class Primary:
    """``bundle`` as kube-identities writes it; ``bindings`` by namespace and name; ``fails``: a command that does."""

    def __init__(self) -> None:
        self.bundle, self.bindings = "", dict[tuple[str, str], dict[str, Any]]()
        self.fails, self.kill, self.commands, self.history = "", "", list[str](), list[str]()

    def connect(self, _: object, node: Node) -> FakeHost:
        assert node.role == "primary"
        if self.fails == "connect":
            raise SmallkubeError("can't be reached", where=node.name)
        return FakeHost(node, self.answer)

    def answer(self, command: Command) -> Result:
        words = [word for word in command.argv if not word.startswith("--request-timeout")]
        self.commands.append(" ".join([command.name, *words[2:4]]) if command.name == "kubectl" else command.name)
        if self.kill and self.kill in self.commands[-1]:
            raise Killed
        if self.fails and self.fails in self.commands[-1]:
            return reply(status=1, stderr="no\n")
        data = (command.stdin or b"").decode()
        match command.name:
            case "facts":
                found = {"system": "s", "history": self.history, "peers": "", "public_key": ""}
                return reply(json.dumps(found | {"wireguard": {}, "rendered": [], "own_keys": []}))
            case "record":
                self.history.append(data.strip())
            case "read the accepted certificates":
                return reply(self.bundle)
            case "replace identities":
                assert re.search(r"^# end \d+\n\Z", data, re.MULTILINE)
                self.bundle = re.sub(r"^# end .*\n", "", data, flags=re.MULTILINE).replace("# identity ", "# ")
            case "try certificate":
                leaf = data.partition("-----END CERTIFICATE-----")[0]
                return reply("accepted" if leaf in self.bundle else "refused")
            case "kubectl":
                return self._kubectl(words[2:], json.loads(data) if data else {})
            case "journalctl" | "read the journal" | "date" | "publish identities":
                return reply("1")
            case _:
                raise AssertionError(command)
        return reply()

    def _kubectl(self, words: list[str], document: dict[str, Any]) -> Result:
        match words:
            case ["get", "namespace", name, *_]:
                return reply("namespace/shop" if name == "shop" else "")
            case ["get", "clusterrolebindings,rolebindings", *flags]:
                (selector,) = (flag for flag in flags if flag.startswith("--selector"))
                wanted = {tuple(pair.split("=")) for pair in selector.removeprefix("--selector=").split(",")}
                found = [item for item in self.bindings.values() if wanted <= {*item["metadata"]["labels"].items()}]
                return reply(json.dumps({"items": found}))
            case ["apply", *_]:
                metadata = document["metadata"]
                self.bindings[metadata.get("namespace", ""), metadata["name"]] = document
            case ["delete", *_]:
                for item in document["items"]:
                    self.bindings.pop((item["metadata"]["namespace"], item["metadata"]["name"]))
            case _:
                raise AssertionError(words)
        return reply()

    @property
    def users(self) -> list[str]:
        return re.findall(r"^# users/(\S+)\.crt", self.bundle, re.MULTILINE)

    @property
    def rights(self) -> dict[str, tuple[str, str]]:
        """Subject → role and namespace."""
        found = {}
        for (namespace, _), item in self.bindings.items():
            (subject,) = item["subjects"]
            assert subject["name"] not in found and subject["kind"] == "User"
            found[subject["name"]] = (item["roleRef"]["name"], namespace)
        return found


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("people") / "workspace"
    root.mkdir()
    (root / "inventory.yaml").write_text(INVENTORY)
    generate_keys(Workspace(root))
    return root


@pytest.fixture
def here(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    root = shutil.copytree(template, tmp_path / "workspace")
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(root))
    return Workspace(root)


@pytest.fixture
def primary(monkeypatch: pytest.MonkeyPatch) -> Primary:
    made = Primary()
    monkeypatch.setattr(ssh, "SshHost", made.connect)
    return made


@pytest.fixture
def run(here: Workspace, primary: Primary, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a task; its status and output."""

    def task(*words: str) -> tuple[int, str, str]:
        status: object = 0
        try:
            main(["smallkube", *words])
        except SystemExit as end:
            status = end.code
        said = capsys.readouterr()
        return int(str(status or 0)), said.out, said.err

    yield task
    assert "PRIVATE KEY" not in primary.bundle


def done(run: Run, *words: str) -> str:
    status, out, err = run(*words)
    assert status == 0, err
    return out


def refused(run: Run, *words: str, status: int = 2) -> str:
    found, _, err = run(*words)
    assert found == status, err
    (line,) = err.splitlines()
    return line


def request(path: Path, key: ec.EllipticCurvePrivateKey | None = None) -> str:
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return str(path)


def files(here: Workspace, name: str) -> list[str]:
    return sorted(str(path.relative_to(here.keys_dir)) for path in here.keys_dir.rglob(f"*{name}*"))


def test_a_user_whose_key_is_made_here(run: Run, primary: Primary, here: Workspace) -> None:
    done(run, "users.add", "alice", "--role", "edit", "--namespace", "shop", "--group", "dev,ops")
    assert files(here, "alice") == ["user_alice.key.age", "users/alice.crt"]
    assert primary.users == ["alice"] and primary.rights == {"alice": ("edit", "shop")}
    assert done(run, "keys.check", "--json") and json.loads(done(run, "keys.check", "--json"))["problems"] == []
    config = json.loads(done(run, "users.kubeconfig", "alice", "--out", "-"))
    assert config["current-context"] == "test-alice" and "client-key-data" in config["users"][0]["user"]
    (entry,) = json.loads(done(run, "users.list", "--json"))
    assert (entry["groups"], entry["key"], entry["state"]) == (["dev", "ops"], "administrators", "accepted")
    # No node gets the key, in whatever form.
    assert "user_alice" not in (
        here.secrets_nix.read_text().replace('"user_alice.key.age".publicKeys = [ master ];', "")
    )


def test_a_user_who_has_a_key(run: Run, primary: Primary, here: Workspace, tmp_path: Path) -> None:
    csr = request(tmp_path / "csr")
    done(run, "users.add", "bob", "--csr", csr)
    assert files(here, "bob") == ["users/bob.crt"] and primary.users == ["bob"] and primary.rights == {}
    assert "pass --key FILE" in refused(run, "users.kubeconfig", "bob")
    config = json.loads(done(run, "users.kubeconfig", "bob", "--key", "bob.key", "--out", "-"))
    assert config["users"][0]["user"]["client-key"] == "bob.key"
    assert "this is the key of bob" in refused(run, "users.add", "carol", "--csr", csr)
    assert files(here, "carol") == [] and primary.users == ["bob"]


def test_a_key_for_its_recipient_alone(run: Run, here: Workspace) -> None:
    identity = x25519.Identity.generate()
    done(run, "users.add", "carol", "--recipient", str(identity.to_public()))
    assert files(here, "carol") == ["users/carol.crt", "users/carol.key.age"]
    pem = pyrage.decrypt((here.keys_dir / "users/carol.key.age").read_bytes(), [identity])
    assert client_certificates.belongs((here.keys_dir / "users/carol.crt").read_bytes(), pem, "key")
    assert "decrypt keys/users/carol.key.age" in refused(run, "users.kubeconfig", "carol")
    assert json.loads(done(run, "keys.check", "--json"))["problems"] == []
    done(run, "users.add", "carol", "--csr", request(here.root / "csr"))
    assert files(here, "carol") == ["users/carol.crt"]


def test_a_new_key_replaces_the_one_there_is(run: Run, primary: Primary, here: Workspace) -> None:
    done(run, "users.add", "alice", "--group", "dev", "--role", "view")
    before = json.loads(done(run, "users.kubeconfig", "alice", "--out", "-"))["users"][0]["user"]
    done(run, "users.add", "alice", "--new-key")
    after = json.loads(done(run, "users.kubeconfig", "alice", "--out", "-"))["users"][0]["user"]
    assert not {*before.values()} & {*after.values()}
    assert people.read(here)["alice"].groups == ("dev",) and primary.users == ["alice"]
    assert json.loads(done(run, "keys.check", "--json"))["problems"] == []


def test_only_what_is_asked_for_changes(run: Run, primary: Primary, here: Workspace) -> None:
    done(run, "users.add", "alice", "--role", "view", "--group", "dev")
    certificate = (here.keys_dir / "users/alice.crt").read_bytes()
    done(run, "users.add", "alice", "--role", "admin", "--namespace", "shop")
    assert primary.rights == {"alice": ("admin", "shop")}
    primary.bindings.clear()
    done(run, "users.add", "alice")
    assert primary.rights == {"alice": ("admin", "shop")}
    done(run, "users.add", "alice", "--role", "edit")
    assert primary.rights == {"alice": ("edit", "shop")}
    done(run, "users.add", "alice", "--namespace", "*")
    assert primary.rights == {"alice": ("edit", "")}
    done(run, "users.add", "alice", "--namespace", "shop")
    assert primary.rights == {"alice": ("edit", "shop")}
    done(run, "users.add", "alice", "--role", "none")
    assert primary.rights == {} and (here.keys_dir / "users/alice.crt").read_bytes() == certificate
    key = client_certificates.key_of(certificate, "a")
    done(run, "users.add", "alice", "--expires", "12h")
    renewed = (here.keys_dir / "users/alice.crt").read_bytes()
    assert renewed != certificate and primary.users == ["alice"]
    assert client_certificates.same_key([("alice", renewed)], key) == "alice"
    assert people.read(here)["alice"].groups == ("dev",)
    done(run, "users.add", "alice", "--group", "ops", "--group", "qa")
    assert people.read(here)["alice"].groups == ("ops", "qa")
    done(run, "users.add", "alice", "--group", "none")
    groupless = (here.keys_dir / "users/alice.crt").read_bytes()
    assert client_certificates.faults(replace(people.read(here)["alice"], groups=()), groupless) == []
    assert client_certificates.same_key([("alice", groupless)], key) == "alice"


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["Alice"], "no name for a user"),
        (["system:masters"], "no name for a user"),
        (["root"], "a name of the cluster's own"),
        (["a", "--group", "system:masters"], "no group for a user"),
        (["a", "--role", "root"], "no role"),
        (["a", "--namespace", "shop"], "a namespace without a role"),
        (["a", "--group", "none,dev"], "no group for a user: 'none'"),
        (["a", "--role", "view", "--namespace", "missing"], "the cluster has no namespace missing"),
        (["a", "--expires", "0d"], "--expires 0d"),
        (["a", "--expires", "4000d"], "3650d at most"),
        (["a", "--expires", "soon"], "--expires soon"),
        (["a", "--csr", "/nonexistent"], "can't be read"),
        (["a", "--csr", "/dev/null"], "not a certificate request"),
        (["a", "--csr", "/"], "can't be read"),
        (["a", "--recipient", "age1x"], "not a usable recipient"),
        (["a", "--recipient", "x"], "not a usable recipient"),
        (["a", "--recipient", "x", "--csr", "y"], "--csr with --recipient"),
    ],
)
def test_what_is_refused_changes_nothing(
    words: list[str], fault: str, run: Run, primary: Primary, here: Workspace
) -> None:
    before = {path: path.read_bytes() for path in here.keys_dir.rglob("*") if path.is_file()}
    assert fault in refused(run, "users.add", *words)
    assert before == {path: path.read_bytes() for path in here.keys_dir.rglob("*") if path.is_file()}
    assert primary.bundle == "" and primary.bindings == {}


def test_a_primary_that_is_off_changes_nothing(run: Run, primary: Primary, here: Workspace) -> None:
    primary.fails = "connect"
    assert "can't be reached" in refused(run, "users.add", "alice", status=1)
    assert files(here, "alice") == []


@pytest.mark.parametrize("fails", ["replace", "kubectl apply", "kubectl get"])
def test_what_the_primary_did_not_get_is_sent_again(fails: str, run: Run, primary: Primary) -> None:
    primary.fails = fails
    status, _, err = run("users.add", "alice", "--role", "view")
    assert status == 1 and "alice is in keys/, but the cluster does not know it yet" in err
    primary.fails = ""
    done(run, "users.add", "alice")
    assert primary.users == ["alice"] and primary.rights == {"alice": ("view", "")}


def test_a_removal_in_its_order(run: Run, primary: Primary, here: Workspace) -> None:
    for name in ("alice", "bob"):
        done(run, "users.add", name, "--role", "view")
    primary.commands.clear()
    found = json.loads(done(run, "users.remove", "alice", "--yes", "--json"))
    assert isinstance(found["refused_after"], float)
    order = [each for each in primary.commands if "date" not in each and "journal" not in each]
    assert order == ["facts", "replace identities", "publish identities", "record", "try certificate",
                     "kubectl get clusterrolebindings,rolebindings", "kubectl delete --ignore-not-found"]  # fmt: skip
    assert files(here, "alice") == [] and primary.users == ["bob"] and primary.rights == {"bob": ("view", "")}
    assert "no user 'alice'" in refused(run, "users.remove", "alice", "--yes")
    assert json.loads(done(run, "keys.check", "--json"))["problems"] == []


@pytest.mark.parametrize("kill", ["replace", "publish", "try", "kubectl get", "kubectl delete"])
def test_a_killed_removal_is_resumed(kill: str, run: Run, primary: Primary, here: Workspace) -> None:
    done(run, "users.add", "alice", "--role", "view")
    primary.kill = kill
    with pytest.raises(Killed):
        run("users.remove", "alice", "--yes")
    primary.kill = ""
    (entry,) = json.loads(done(run, "users.list", "--json"))
    assert entry["state"] == "removal interrupted"
    assert "was interrupted" in refused(run, "users.add", "alice")
    # Meanwhile nothing brings the certificate back.
    done(run, "users.add", "bob")
    assert primary.users == ["bob"]
    done(run, "users.remove", "alice", "--yes")
    assert files(here, "alice") == [] and primary.users == ["bob"] and primary.rights == {}


def test_a_certificate_that_stays_accepted_is_an_error(
    run: Run, primary: Primary, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(run, "users.add", "alice")
    monkeypatch.setattr("smallkube.operations.users.SECONDS", 0)
    monkeypatch.setattr(Primary, "answer", _stuck)
    assert "is not refused: alice is accepted" in run("users.remove", "alice", "--yes")[2]


ANSWER = Primary.answer


def _stuck(primary: Primary, command: Command) -> Result:
    return reply("accepted") if command.name == "try certificate" else ANSWER(primary, command)


def refuse_older(primary: Primary, here: Workspace) -> None:
    """As a deploy does."""
    node = load(here.inventory_file).primary
    found = {node.name: facts.deployed(primary.connect(None, node))}
    preflight.refuse_older_keys(found, transaction.states(here))


def test_keys_that_are_older_send_nothing(run: Run, primary: Primary, here: Workspace, tmp_path: Path) -> None:
    done(run, "users.add", "carol")
    other = Workspace(shutil.copytree(here.root, tmp_path / "other"))
    done(run, "users.add", "alice")
    before = primary.bundle
    shutil.rmtree(here.root)
    shutil.copytree(other.root, here.root)
    line = refused(run, "users.add", "bob")
    assert "node1 has newer keys than this workspace" in line and "git pull" in line
    assert "git pull" in run("users.remove", "carol", "--yes")[2]
    assert primary.bundle == before and files(here, "bob") == []
    assert not people.read(here)["carol"].removed
    with pytest.raises(UsageError, match="node1 has newer keys"):
        refuse_older(primary, here)


def test_a_deploy_brings_what_a_lost_change_had_sent(run: Run, primary: Primary, here: Workspace) -> None:
    """The change of keys/ is no longer there: what was sent to the primary is still accepted until then."""
    shutil.copytree(here.keys_dir, here.root / "before")
    cluster = Cluster(here, load(here.inventory_file))
    done(run, "users.add", "alice")

    def differences() -> list[str]:
        return identities.mismatched(cluster, primary.connect(None, cluster.inventory.primary))

    assert differences() == []
    identities.settle(cluster, partial(primary.connect, None))
    assert primary.commands.count("replace identities") == 1
    shutil.rmtree(here.keys_dir)
    shutil.copytree(here.root / "before", here.keys_dir)
    assert differences() == ["accepts a certificate that is not in keys/ (users/alice.crt)"]
    identities.settle(cluster, partial(primary.connect, None))
    assert primary.users == [] and differences() == []
    refuse_older(primary, here)


def test_an_expired_user_is_left_out(run: Run, primary: Primary, here: Workspace) -> None:
    done(run, "users.add", "alice")
    certificate, then = here.users_keys_dir / "alice.crt", datetime(2026, 1, 2, tzinfo=UTC)
    expired = replace(people.read(here)["alice"], expires=people.stamp(then))
    here.users_file.write_bytes(people.render({"alice": expired}))
    key = client_certificates.key_of(certificate.read_bytes(), "alice")
    certificate.write_bytes(client_certificates.issue(expired, key, then))
    done(run, "users.add", "bob")
    assert primary.users == ["bob"]
    assert "expired" in done(run, "users.list")
    done(run, "users.add", "alice", "--expires", "1d")
    assert sorted(primary.users) == ["alice", "bob"]


def test_keys_check_finds_what_does_not_agree(run: Run, here: Workspace) -> None:
    for name in ("alice", "bob", "carol"):
        done(run, "users.add", name)
    folder = here.users_keys_dir
    (folder / "alice.crt").write_bytes((folder / "bob.crt").read_bytes())
    (folder / "bob.crt").unlink()
    (folder / "eve.crt").write_text("")
    shutil.copy(here.keys_dir / "user_alice.key.age", here.keys_dir / "user_eve.key.age")
    found: dict[str, str] = {}
    for row in json.loads(run("keys.check", "--json")[1])["problems"]:
        found[row["file"]] = f"{found.get(row['file'], '')}{row['fault']}"
    assert "its name is not alice alone" in found["users/alice.crt"]
    assert found["users/bob.crt"] == "missing"
    assert "stale" in found["users/eve.crt"] and "stale" in found["user_eve.key.age"]
    line = run("users.add", "carol", "--role", "view")[2]
    assert "keys/users/bob.crt: carol is in keys/, but" in line and "missing" in line
    assert "its name is not alice alone" in refused(run, "users.add", "alice", "--group", "dev")


def test_last_seen_is_asked_of_the_primary(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    done(run, "users.add", "alice")
    done(run, "users.add", "bob")
    monkeypatch.setattr(audit_log, "last_seen", lambda _, users: {users[0]: "2026-11-27T01:02:03.4Z"})
    lines = done(run, "users.list", "--seen").splitlines()
    assert lines[0].split()[-1] == "SEEN"
    assert lines[1].endswith("2026-11-27 01:02:03") and lines[2].endswith("never")
