"""Tasks that only read this machine and the workspace, with answers that stay the same: task → what runs it."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from invoke.context import Context

from lab import cache, removal
from lab import cluster as labs
from lab import tasks as lab_tasks
from lab.cache import Pruned
from lab.cluster import MachineStatus
from smallkube.cli import (
    admins,
    doctor,
    etcd,
    inventory,
    keys,
    nix,
    users,
)
from smallkube.core.checks import Check, Result
from smallkube.doctor import facts as doctor_facts
from smallkube.etcd import backup, catalog, verify
from smallkube.etcd import status as etcd_status
from smallkube.etcd.catalog import Catalog
from smallkube.inventory import external_host
from smallkube.kube import audit_log
from smallkube.nix import bundle
from smallkube.nix import check as nix_check
from smallkube.operations import admins as reading_admins
from smallkube.secrets import audit, people
from smallkube.secrets.audit import Problem
from smallkube.secrets.people import Person
from tests.leaks import RECIPIENT
from tests.unit.fake_cluster import FakeCluster
from tests.unit.shown import BACKUP, ETCD, STORE, TIME, Clock, Patch, Show
from tests.unit.test_doctor import without


def show_doctor(_: FakeCluster, patch: Patch) -> None:
    patch.setattr(doctor_facts, "read", lambda _: replace(without("age", "etcdutl"), without_host_key=("node2",)))
    doctor.doctor(Context())


def show_list(_: FakeCluster, patch: Patch) -> None:
    damaged = replace(BACKUP, name=BACKUP.name.replace("17-", "18-"), sequence=18, problem="the hash differs")
    found = Catalog(Path("/backups"), (BACKUP, damaged), {"test-20261128T072234Z-19-4567abcd": "no record of it"})
    patch.setattr(catalog, "of", lambda _: found)
    etcd.list_(Context())


def show_verify(_: FakeCluster, patch: Patch) -> None:
    checks = [
        Check(BACKUP.name, "snapshot", Result.OK, "decrypted, 1234 keys at revision 123456"),
        Check("b18", "file", Result.FAILED, "its SHA-256 differs from the record: it was changed after it was written"),
    ]
    patch.setattr(backup, "locked", lambda _: nullcontext(Catalog(Path("/backups"), (BACKUP,), {})))
    patch.setattr(verify, "verify", lambda *_: checks)
    etcd.verify(Context(), name=[])


def show_etcd(_: FakeCluster, patch: Patch) -> None:
    patch.setattr(catalog, "of", lambda _: Catalog(Path("/backups"), (BACKUP,), {}))
    patch.setattr(etcd_status, "read", lambda *_: ETCD)
    patch.setattr(etcd, "datetime", Clock)
    etcd.status(Context())


def show_inventory_check(_: FakeCluster, patch: Patch) -> None:
    patch.setattr(external_host, "fault", lambda *_: "")
    inventory.check(Context())


def show_keys_check(shown: FakeCluster, patch: Patch, problems: tuple[Problem, ...] = ()) -> None:
    found = replace(audit.check(shown.cluster), problems=problems)
    patch.setattr(audit, "check", lambda _: found)
    keys.check(Context())


def show_nix_check(_: FakeCluster, patch: Patch) -> None:
    complaint = "kubelet.service:12: Unknown key name 'ExecStartt' in section 'Service', ignoring."
    checks = [
        Check(
            "",
            "inputs",
            Result.OK,
            "agenix github:ryantm/agenix/0123456789ab, nixpkgs github:NixOS/nixpkgs/0123456789ab",
        ),
        Check("node2", "evaluation", Result.OK),
        Check("node2", "unit files", Result.FAILED, complaint),
        Check("node2", "generated scripts", Result.SKIPPED, "no shellcheck (Debian: shellcheck)"),
    ]
    patch.setattr(bundle, "assemble", lambda _: SimpleNamespace(files={}))
    patch.setattr(nix_check, "check", lambda *_: checks)
    nix.check(Context(), override_input=[])


def show_users(_: FakeCluster, patch: Patch) -> None:
    person = Person("alice.longname", ("developers", "operators"), "cluster-admin", "", TIME, "2020-01-01T00:00:00Z")
    patch.setattr(people, "read", lambda _: {person.name: person})
    patch.setattr(audit_log, "last_seen", lambda *_: {person.name: TIME})
    users.list_(Context(), seen=True)


def show_admins(_: FakeCluster, patch: Patch) -> None:
    rows = [
        reading_admins.Row("master", "age", RECIPIENT, True, (), ()),
        reading_admins.Row("bob", "age", RECIPIENT, False, ("kube_token_root", "apiserver.key"), ("issuer.key",)),
    ]
    patch.setattr(reading_admins, "status", lambda _: rows)
    admins.list_(Context())


def show_labs(_: FakeCluster, patch: Patch) -> None:
    machine = MachineStatus("node1", "running", "127.88.3.1:2222", "192.168.88.1", STORE)
    lab = SimpleNamespace(name="demo", record=SimpleNamespace(), status=lambda: [machine], folder=Path("/labs/demo"))
    patch.setattr(labs, "all_labs", lambda _: [lab])
    patch.setattr(removal, "disk_usage", lambda _: 500 << 20)
    patch.setattr(cache, "prune", lambda *_, **__: [Pruned("image-0123456789ab", "current", 600 << 20, "kept")])
    lab_tasks.status(Context())


SHOWN: Mapping[str, Show] = {
    "admins.list": show_admins,
    "doctor": show_doctor,
    "etcd.list": show_list,
    "etcd.status": show_etcd,
    "etcd.verify": show_verify,
    "inventory.check": show_inventory_check,
    "inventory.show": lambda _, __: inventory.show(Context()),
    "keys.check": show_keys_check,
    "keys.check-problems": partial(
        show_keys_check,
        problems=(
            Problem(
                "kube_token_system_kube-controller-manager.age", "node2 can read it and must not", "inv keys.rekey"
            ),
            Problem("kubelet_node2.crt", "expires in 12 days", "inv keys.rotate-certificates --node node2"),
        ),
    ),
    "keys.list": lambda _, __: keys.list_(Context()),
    "lab.status": show_labs,
    "nix.check": show_nix_check,
    "users.list": show_users,
}
