"""People on a real cluster: what each role may do, and that access begins and ends at once without a restart."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import LabCluster, ended, killed_at
from tests.cluster.load import busy

NAMESPACE, OTHER = "test-users", "default"
RIGHTS = {
    "view": {"get pods": True, "create pods": False, "get secrets": False, "get nodes": False},
    "edit": {"create pods": True, "get secrets": True, "create rolebindings": False, "get nodes": False},
    "admin": {"create rolebindings": True, "delete namespace": False, "create resourcequotas": False},
    "cluster-admin": {"get secrets": True, "create rolebindings": True, "delete namespace": True},
}
"""Role → what it may do in its namespace, and not."""


@pytest.fixture(scope="module")
def people(cluster: LabCluster) -> Iterator[LabCluster]:
    """The cluster with the namespace; its API server is never restarted while people come and go."""
    with cluster.namespace(NAMESPACE, wait=False):
        before = started(cluster)
        yield cluster
        assert started(cluster) == before


def say(text: str) -> None:
    """A measurement, which pytest -s shows."""
    sys.stdout.write(f"{text}\n")


def started(cluster: LabCluster) -> str:
    words = ("systemctl", "show", "--property=MainPID,ActiveEnterTimestampMonotonic,NRestarts", "kube-apiserver")
    return cluster.machine("node1").check(*words)


def add(cluster: LabCluster, name: str, *flags: str) -> str:
    done = cluster.operator.inv("users.add", name, *flags)
    assert done.returncode == 0, done.stderr
    return done.stderr


def remove(cluster: LabCluster, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.operator.done("users.remove", name, "--yes", "--json"))
    return found


def install(cluster: LabCluster, name: str, *flags: str) -> None:
    """Put the person's kubeconfig on the primary, which is as good a place as their laptop."""
    text = cluster.operator.done("users.kubeconfig", name, "--via", "tunnel", "--out", "-", *flags)
    cluster.machine("node1").check("sh", "-c", f"umask 077; cat >/run/person-{name}", stdin=text)


def ask(cluster: LabCluster, name: str, *words: str) -> tuple[bool, str]:
    """kubectl as the person: whether it succeeded, and what it said."""
    argv = ["env", f"KUBECONFIG=/run/person-{name}", "/run/current-system/sw/bin/kubectl", "--request-timeout=10s"]
    done = cluster.machine("node1").execute([*argv, *words])
    return done.returncode == 0, done.stdout + done.stderr


def can(cluster: LabCluster, name: str, what: str, namespace: str) -> bool:
    good, said = ask(cluster, name, "-n", namespace, "auth", "can-i", *what.split())
    assert said.split()[0] in ("yes", "no"), said
    return good


def whoami(cluster: LabCluster, name: str) -> dict[str, Any]:
    good, said = ask(cluster, name, "auth", "whoami", "--output=json")
    assert good, said
    found: dict[str, Any] = json.loads(said)["status"]["userInfo"]
    return found


def await_answer(cluster: LabCluster, name: str, word: str) -> float:
    """Seconds until the API server's answer to the person has this word in it."""
    began = time.monotonic()
    cluster.eventually(f"{word} for {name}", lambda: word in ask(cluster, name, "auth", "whoami")[1], 60)
    return time.monotonic() - began


@pytest.mark.parametrize("role", RIGHTS)
def test_a_role_holds_in_its_namespace_alone(people: LabCluster, role: str) -> None:
    name = f"p-{role}"
    add(people, name, "--role", role, "--namespace", NAMESPACE, "--group", "dev")
    install(people, name)
    seconds = await_answer(people, name, name)
    say(f"{name} accepted after {seconds:.1f} s")
    assert {what: can(people, name, what, NAMESPACE) for what in RIGHTS[role]} == RIGHTS[role]
    assert not can(people, name, "get pods", OTHER) and not can(people, name, "get nodes", OTHER)
    found = whoami(people, name)
    assert found["username"] == name and {*found["groups"]} == {"dev", "system:authenticated"}
    say(f"{name} refused after {remove(people, name)['refused_after']} s")
    assert "Unauthorized" in ask(people, name, "auth", "whoami")[1]


def test_a_role_everywhere_is_changed_and_restored(people: LabCluster) -> None:
    add(people, "carol", "--role", "view")
    install(people, "carol")
    await_answer(people, "carol", "carol")
    assert can(people, "carol", "get pods", OTHER) and not can(people, "carol", "delete pods", OTHER)
    add(people, "carol", "--role", "cluster-admin")
    assert can(people, "carol", "* *", OTHER)
    add(people, "carol", "--role", "edit", "--namespace", NAMESPACE)
    assert can(people, "carol", "delete pods", NAMESPACE) and not can(people, "carol", "get pods", OTHER)
    people.kubectl("-n", NAMESPACE, "delete", "rolebinding", "smallkube:user:carol:edit")
    assert not can(people, "carol", "get pods", NAMESPACE)
    add(people, "carol")
    assert can(people, "carol", "delete pods", NAMESPACE)
    add(people, "carol", "--role", "none")
    assert not can(people, "carol", "get pods", NAMESPACE)
    labelled = ("rolebindings,clusterrolebindings", "-A", "-l", "smallkube/user=carol")
    assert people.get(*labelled)["items"] == []
    remove(people, "carol")


FORGE = """\
set -e
cd "$1"
openssl ecparam -name prime256v1 -genkey -noout -out forged.key
openssl req -new -key forged.key -subj /O=system:masters/CN=root -out forged.csr
openssl x509 -req -in forged.csr -CA own.crt -CAkey own.key -CAcreateserial -days 1 -out forged.crt
cat forged.crt own.crt forged.key
"""
CURL = """\
cat >/run/forged; curl -sk --cert /run/forged -o /dev/null -w '%{http_code}' https://api.k8s.internal:6443/api
"""


def test_a_persons_own_key_and_what_it_can_not_sign(people: LabCluster, tmp_path: Path) -> None:
    key, csr = tmp_path / "own.key", tmp_path / "own.csr"
    argv = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/O=system:masters/CN=x"]
    subprocess.run([*argv, "-keyout", str(key), "-out", str(csr)], check=True, capture_output=True)
    add(people, "dave", "--csr", str(csr), "--role", "view", "--namespace", NAMESPACE)
    install(people, "dave", "--key", "dave.key")
    people.machine("node1").check("sh", "-c", "umask 077; cat >/run/dave.key", stdin=key.read_text())
    await_answer(people, "dave", "dave")
    found = whoami(people, "dave")
    assert (found["username"], found["groups"]) == ("dave", ["system:authenticated"])
    (entry,) = json.loads(people.operator.done("users.list", "--seen", "--json"))
    assert found["extra"]["authentication.kubernetes.io/credential-id"] == [entry["credential"]]
    assert entry["seen"] and entry["key"] == "person"
    audited = json.loads(people.operator.done("cluster.audit", "--user", "dave", "--json"))
    assert {each["credential"] for each in audited} == {entry["credential"]}
    (tmp_path / "own.crt").write_bytes((people.operator.workspace.keys_dir / "users/dave.crt").read_bytes())
    chain = subprocess.run(
        ["sh", "-c", FORGE, "forge", str(tmp_path)], check=True, capture_output=True, text=True
    ).stdout
    assert people.machine("node1").check("sh", "-c", CURL, stdin=chain) == "401"
    # Without their key the refusal is not verified by the command.
    assert remove(people, "dave")["refused_after"] is None
    await_answer(people, "dave", "Unauthorized")


def test_an_expired_certificate_is_refused(people: LabCluster) -> None:
    add(people, "erin", "--expires", "20s", "--role", "view")
    install(people, "erin")
    await_answer(people, "erin", "erin")
    (entry,) = json.loads(people.operator.done("users.list", "--json"))
    say(f"expired is refused after {await_answer(people, 'erin', 'Unauthorized'):.1f} s, {entry['expires']}")
    (entry,) = json.loads(people.operator.done("users.list", "--json"))
    assert entry["state"] == "expired"
    assert "warning: the certificate of erin expired" in people.operator.inv("cluster.status").stderr
    add(people, "erin", "--expires", "1h")
    install(people, "erin")
    await_answer(people, "erin", "erin")
    remove(people, "erin")


def test_nobody_else_notices_who_comes_and_goes(people: LabCluster) -> None:
    with busy(people, "test-users-load") as load:
        for _ in range(3):
            add(people, "frank", "--role", "view")
            install(people, "frank")
            await_answer(people, "frank", "frank")
            done = remove(people, "frank")
            assert done["refused_after"] is not None and done["outage"]["restarts"] == 0
            say(f"frank refused after {done['refused_after']} s")
        add(people, "frank", "--expires", "20s", "--role", "view")
        install(people, "frank")
        await_answer(people, "frank", "frank")
        say(f"expired, frank is refused after {await_answer(people, 'frank', 'Unauthorized'):.1f} s")
        remove(people, "frank")
    load.judge(restarts=0)
    assert not list(people.operator.workspace.keys_dir.rglob("*frank*"))


@pytest.mark.parametrize("line", ["take the", "verify", "delete the bindings"])
def test_killed_a_removal_is_ended_by_the_same_command(people: LabCluster, line: str) -> None:
    add(people, "grace", "--role", "view")
    install(people, "grace")
    await_answer(people, "grace", "grace")
    killed_at(people, f"users: {line}", "users.remove", "grace", "--yes")
    again = people.operator.inv("users.add", "grace")
    assert again.returncode == 2 and "the removal of grace was interrupted" in again.stderr
    # Another's change takes the certificate out as well, wherever the removal was killed.
    add(people, "heidi")
    await_answer(people, "grace", "Unauthorized")
    ended(people, "users.remove", "grace", "--yes")
    assert [each["name"] for each in json.loads(people.operator.done("users.list", "--json"))] == ["heidi"]
    assert people.get("clusterrolebindings", "-l", "smallkube/user")["items"] == []
    remove(people, "heidi")


def test_a_deploy_keeps_people_and_restarts_nothing(people: LabCluster) -> None:
    add(people, "ivan", "--role", "view")
    install(people, "ivan")
    await_answer(people, "ivan", "ivan")
    people.operator.done("nix.render")
    people.operator.deploy()
    await_answer(people, "ivan", "ivan")
    remove(people, "ivan")
    people.machine("node1").check("systemctl", "restart", "kube-identities")
    await_answer(people, "ivan", "Unauthorized")
    people.operator.done("nix.render")
    people.operator.deploy()
    assert "Unauthorized" in ask(people, "ivan", "auth", "whoami")[1]
