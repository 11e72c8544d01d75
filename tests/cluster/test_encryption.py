"""Proves that the key of the Secrets in etcd is replaced while they stay readable, from wherever it was killed, and
that a backup from before can be restored with the key that git has, and not without it.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.operations import encryption
from smallkube.secrets import policy, transaction
from smallkube.secrets.transaction import changing_keys
from tests.cluster.conftest import LabCluster, ended, killed_at
from tests.cluster.load import busy

NAMESPACE = "test-encryption"
ROTATE = ("encryption.rotate", "--yes", "--no-backup")


@pytest.fixture(scope="module")
def secrets(cluster: LabCluster) -> Iterator[LabCluster]:
    """Thirty Secrets, number N of which holds N."""
    with cluster.namespace(NAMESPACE):
        objects: list[dict[str, Any]] = []
        for number in range(30):
            metadata = {"name": f"secret-{number}", "namespace": NAMESPACE}
            objects.append(
                {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"number": f"{number}"}}
            )
        cluster.apply(*objects)
        yield cluster


def stored(cluster: LabCluster) -> dict[str, int]:
    """How many Secrets in etcd begin with the name of which key, by another way than the task's own."""
    ask = "etcdctl --endpoints unix:///run/etcd/grpc get /registry/secrets/ --prefix --print-value-only"
    names = "grep -a -o '^k8s:enc:secretbox:v1:[^:]*' | sort | uniq -c"
    said = cluster.machine("node1").check("sh", "-c", f"{ask} | {names}")
    return {name.rsplit(":", 1)[1]: int(count) for count, name in (line.split() for line in said.splitlines())}


def numbers(cluster: LabCluster) -> set[str]:
    return {item["data"]["number"] for item in cluster.get("-n", NAMESPACE, "secrets")["items"]}


def test_every_secret_gets_the_new_key_and_stays_readable(secrets: LabCluster) -> None:
    before, readable = stored(secrets), numbers(secrets)
    with busy(secrets, NAMESPACE, make=False) as load:
        done = json.loads(secrets.operator.done("encryption.rotate", "--yes", "--json"))
    assert (len(before), done["stored"]) == (1, stored(secrets))
    assert set(done["stored"]) == {done["key"]} != set(before)
    assert numbers(secrets) == readable
    assert done["outage"]["restarts"] == 3
    load.judge(restarts=3)


def test_killed_it_is_ended_by_the_same_command(secrets: LabCluster) -> None:
    readable = numbers(secrets)
    killed_at(secrets, "encryption: retire", *ROTATE)
    ended(secrets, *ROTATE)
    secrets.eventually("readable", lambda: numbers(secrets) == readable)
    assert len(stored(secrets)) == 1


def test_aborted_the_previous_key_stays(secrets: LabCluster) -> None:
    before = stored(secrets)
    killed_at(secrets, "encryption: verify in etcd", *ROTATE)
    assert stored(secrets) != before
    done = ("encryption.rotate", "--abort", "--yes", "--no-backup")
    ended(secrets, *done)
    assert stored(secrets) == before


def configuration(cluster: LabCluster) -> encryption.Configuration:
    return encryption.parse(cluster.operator.done("keys.show", "EncryptionConfiguration.yaml").encode())


def test_an_earlier_backup_needs_the_previous_key(secrets: LabCluster) -> None:
    operator, readable = secrets.operator, numbers(secrets)
    operator.done("etcd.backup")
    former = configuration(secrets)
    operator.done("encryption.rotate", "--yes", "--no-backup")
    refused = operator.inv("etcd.restore", "--yes")
    assert refused.returncode == 2
    assert "git history" in refused.stderr
    # What git has, as a second key: the API server could not read what is there with the former one alone.
    both = encryption.Configuration((*configuration(secrets).keys, *former.keys), former.resources)
    inventory = load(operator.workspace.inventory_file)
    secret = next(row for row in policy.secrets_of(inventory) if row.kind is policy.Kind.ENCRYPTION)
    with changing_keys(operator.workspace):
        transaction.apply(Cluster(operator.workspace, inventory), transaction.Change({secret: both.text()}, {}))
    undeployed = operator.inv("etcd.restore", "--yes")
    assert undeployed.returncode != 0
    assert "deploy keys/EncryptionConfiguration.yaml.age first" in undeployed.stderr
    operator.done("deploy")
    operator.done("etcd.restore", "--yes")
    assert numbers(secrets) == readable
    assert set(stored(secrets)) == {former.keys[0][0]}
    operator.done("encryption.rotate", "--yes", "--no-backup")
    assert set(stored(secrets)) == {both.keys[0][0]}
    assert numbers(secrets) == readable
