"""Proves on a cluster in memory, with real keys/, that a rotation of the encryption key ends well from wherever it was
killed, and that the API server can decrypt everything at each moment.
"""

import subprocess

import pytest

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.operations.encryption import Rotation
from smallkube.operations.engine import Operation
from smallkube.secrets import age, edit, kinds, transaction
from tests.unit.fake_cluster import FakeCluster, kills, run

TITLES = (
    "back up etcd and verify the backup",
    "add a new key that only decrypts",
    "deploy the primary: both keys decrypt",
    "let the new key encrypt",
    "deploy the primary: the new key encrypts",
    "rewrite all secrets",
    "verify in etcd that nothing is encrypted with the previous key, or in clear",
    "retire the previous key",
    "deploy without the retired key",
    "delete the retired key",
)


def operation(cluster: FakeCluster, *, abort: bool = False) -> Operation:
    rotation = Rotation(cluster.cluster, cluster.master, cluster.connect, cluster.deploy, backs_up=True)
    return rotation.operation(cluster.keys, abort=abort)


def rotate(cluster: FakeCluster, kill_before: str | None = None, *, abort: bool = False) -> bool:
    done = run(operation(cluster, abort=abort), cluster.keys, kill_before)
    cluster.read_all()
    return done


def assert_only(cluster: FakeCluster, key: str) -> None:
    """The machines and all objects use this key, and keys/ has no other."""
    assert {name for name, _ in cluster.configuration.keys} == {*cluster.objects.values()} == {key}
    assert [name for name in cluster.keys.files if "Encryption" in name] == ["EncryptionConfiguration.yaml.age"]


def test_the_printed_titles_are_the_steps_that_run(cluster: FakeCluster) -> None:
    assert operation(cluster).titles(cluster.keys) == TITLES


@pytest.mark.parametrize("first", TITLES)
def test_killed_twice_the_same_command_ends_the_rotation(first: str, cluster: FakeCluster) -> None:
    assert not rotate(cluster, first)
    for second in kills(cluster, operation(cluster)):
        cluster.read_all()
        assert not second or rotate(cluster)
        assert_only(cluster, "key2")


@pytest.mark.parametrize("killed", TITLES[2:8])
def test_aborted_before_retirement_the_previous_key_stays(killed: str, cluster: FakeCluster) -> None:
    rotate(cluster, killed)
    for again in kills(cluster, operation(cluster, abort=True)):
        cluster.read_all()
        if again in (None, TITLES[5]):
            assert not again or rotate(cluster, abort=True)
            assert_only(cluster, "key1")


@pytest.mark.parametrize("killed", [None, *TITLES[:2], *TITLES[8:]])
def test_what_is_retired_or_not_begun_is_not_aborted(killed: str | None, cluster: FakeCluster) -> None:
    rotate(cluster, killed)
    with pytest.raises(UsageError, match="no rotation that can be aborted"):
        operation(cluster, abort=True)


WRITTEN = """# kept since the first cluster
kind: EncryptionConfiguration
apiVersion: apiserver.config.k8s.io/v1
resources:
- resources: ["secrets"]
  providers: # the first one encrypts
  - secretbox: {keys: [{secret: 'QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=', "name": %s}]}
  - identity: {} # name: none
"""


@pytest.mark.parametrize("name", ["mine", "'2024'", "key-1", "key01"])
@pytest.mark.parametrize("killed", [None, TITLES[4]])
def test_a_key_that_an_operator_wrote_is_rotated(name: str, killed: str | None, cluster: FakeCluster) -> None:
    with transaction.changing_keys(cluster.workspace):
        edit.edit(cluster.cluster, "EncryptionConfiguration.yaml", lambda *_: (WRITTEN % name).encode())
    cluster.deploy()
    cluster.objects = dict.fromkeys(cluster.objects, name.strip("'"))
    assert rotate(cluster, killed) or rotate(cluster)
    assert_only(cluster, "key1")


def test_an_object_left_under_the_previous_key_keeps_both(cluster: FakeCluster) -> None:
    rotate(cluster, TITLES[6])
    cluster.objects["object1"] = "key1"
    steps = [step for step in operation(cluster).steps if step.title == TITLES[6]]
    with pytest.raises(SmallkubeError, match="not everything is encrypted with key2: 1 with key1"):
        steps[0].run()
    assert rotate(cluster)
    assert_only(cluster, "key2")


def git(cluster: FakeCluster, *words: str) -> str:
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", *author, *words], cwd=cluster.workspace.root, capture_output=True, check=True)
    return done.stdout.decode()


def commit(cluster: FakeCluster) -> None:
    git(cluster, "init", "-q")
    git(cluster, "add", "keys")
    git(cluster, "commit", "-qm", "keys", "--allow-empty")


def keys_in_git(cluster: FakeCluster) -> set[str]:
    """The names of the keys that some commit has."""
    found = set()
    for line in git(cluster, "rev-list", "--objects", "--all").splitlines():
        digest, _, name = line.partition(" ")
        if "Encryption" in name:
            argv = ["git", "cat-file", "blob", digest]
            data = subprocess.run(argv, cwd=cluster.workspace.root, capture_output=True, check=True).stdout
            found |= {name for name, _ in kinds.encryption_keys(age.decrypt(data, cluster.master, name))}
    return found


@pytest.mark.parametrize("initial", [False, True])
def test_a_key_that_git_does_not_have_is_not_replaced(initial: bool, cluster: FakeCluster) -> None:
    git(cluster, "init", "-q")
    if initial:
        git(cluster, "commit", "-qm", "empty", "--allow-empty")
    before = cluster.keys
    with pytest.raises(UsageError, match="the last commit lacks key1, which earlier backups need; commit keys/"):
        rotate(cluster)
    assert cluster.keys == before


def test_a_key_that_git_has_is_replaced_again_and_again(cluster: FakeCluster) -> None:
    for key in ("key2", "key3"):
        commit(cluster)
        assert rotate(cluster)
        assert_only(cluster, key)
    assert {"key1", "key2"} <= keys_in_git(cluster)


@pytest.mark.parametrize("committed", [TITLES[3], TITLES[6], *TITLES[8:], None])
def test_no_key_is_ever_deleted_that_git_has_not(committed: str | None, cluster: FakeCluster) -> None:
    rotate(cluster, TITLES[2])
    git(cluster, "init", "-q")
    if committed:
        assert not rotate(cluster, committed)
        commit(cluster)
    try:
        rotate(cluster)
    except SmallkubeError as error:
        assert "kept: the last commit lacks key1" in str(error)
        assert "EncryptionConfiguration.yaml.retired.age" in cluster.keys.files
        commit(cluster)
        assert rotate(cluster)
    assert_only(cluster, "key2")
    assert "key1" in keys_in_git(cluster)


def test_keys_that_git_ignores_are_as_without_git(cluster: FakeCluster) -> None:
    (cluster.workspace.root / ".gitignore").write_text("/keys\n")
    git(cluster, "init", "-q")
    assert rotate(cluster)
    rotation = Rotation(cluster.cluster, cluster.master, cluster.connect, cluster.deploy, backs_up=True)
    assert not rotation.in_git
