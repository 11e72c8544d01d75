"""How long a backup of etcd takes over SSH, against saving, copying, hashing and encrypting it step by step."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import lab.etcd
from bench.harness import INV, Plan, Row, Work, absent, command, compare, prepared
from bench.memory import peaks
from lab.places import Places
from smallkube.core import ui
from smallkube.core.errors import UsageError
from smallkube.core.workspace import REPOSITORY, Workspace
from smallkube.etcd import signature
from smallkube.etcd.ephemeral import find_programs
from tests.integration.etcd import Etcd
from tests.integration.sshd import Server

VALUE = 8192
OLDEST = (3, 5)
SMALL = 20
"""Megabytes: the time for the start of any task counts there."""
THEIRS = """
set -e
ssh -F none -p "$port" -i "$key" -o UserKnownHostsFile="$known" root@127.0.0.1 \\
  "etcdctl --endpoints $endpoint snapshot save $PWD/remote.db && etcdutl snapshot status $PWD/remote.db"
scp -q -F none -P "$port" -i "$key" -o UserKnownHostsFile="$known" root@127.0.0.1:"$PWD/remote.db" local.db
test "$(head -c -32 local.db | sha256sum | cut -d ' ' -f 1)" = "$(tail -c 32 local.db | od -An -v -tx1 | tr -d ' \\n')"
age -r "$recipient" -o local.age local.db
sync local.age
rm -f remote.db local.db
"""


def rows(plan: Plan) -> Iterator[Row]:
    if absent("etcd.backup", INV, "sshd", "ssh-keygen", "scp", "age", "age-keygen", "zstd"):
        return
    if os.geteuid() != 0:
        ui.warn("etcd.backup is not measured: sshd needs root")
        return
    found = programs()
    if found is None:
        ui.warn("etcd.backup is not measured: etcd, etcdctl and etcdutl of 3.5 or newer not found")
        return
    for megabytes in plan.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            with Etcd(root / "e", found).running() as etcd, Server(root / "s").running() as server:
                fill(etcd, megabytes)
                yield measure(plan, root, etcd, server, megabytes)


def programs() -> Path | None:
    """A folder with etcd's programs: those on PATH, or of the lab as far as it was built or fetched already."""
    own = [Path(path).parent for path in (shutil.which("etcdutl"),) if path]
    for folder in (*own, *lab.etcd.folders(Places.find(os.environ).cache)):
        try:
            find_programs(folder, OLDEST)
        except UsageError:
            continue
        return folder
    return None


def fill(etcd: Etcd, megabytes: int) -> None:
    """Values of which, as with manifests, about half is repetition."""
    half = VALUE // 2
    text = (b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"default"}}' * half)[:half]
    count = megabytes * 1_000_000 // VALUE
    for start in range(0, count, 1000):
        numbers = range(start, min(start + 1000, count))
        etcd.put({f"/registry/configmaps/default/{number:07}": text + os.urandom(half) for number in numbers})


def measure(plan: Plan, root: Path, etcd: Etcd, server: Server, megabytes: int) -> Row:
    key = subprocess.run(["age-keygen"], capture_output=True, text=True, check=True).stderr
    recipient = key.split()[-1]
    template, words = make_workspace(root / "template", server, recipient), ("--endpoint", etcd.endpoint)
    (root / "known").write_text(f"[127.0.0.1]:{server.port} {(server.folder / 'host.pub').read_text()}")
    (server.folder / "authorized_keys").write_text(
        f'environment="PATH={etcd.path}" {(server.folder / "user.pub").read_text()}'
    )
    given = {"endpoint": etcd.endpoint, "port": str(server.port), "recipient": recipient}
    given |= {"key": str(server.folder / "user"), "known": str(root / "known")}

    def ours(run: int) -> Work:
        argv, environment = backup(root / f"ours{run}", template, words)
        return command(argv, cwd=REPOSITORY, env=environment)

    def theirs(run: int) -> Work:
        (root / f"theirs{run}").mkdir()
        return command(["sh", "-c", THEIRS], cwd=root / f"theirs{run}", env={**os.environ, **given})

    against = "snapshot save and status, scp, sha256sum, age, sync"
    row = compare(plan, f"etcd.backup of {megabytes} MB", prepared(plan, ours), against, prepared(plan, theirs))
    argv, environment = backup(root / "watched", template, words)
    own, name, largest = peaks(argv, cwd=REPOSITORY, env=environment, server=server.pid)
    times = "1.5" if megabytes <= SMALL else "1.0"
    goal = f"at most {times} times and 64 MiB; memory of its process: {own} MiB, of the largest ({name}): {largest} MiB"
    return replace(row, goal=goal)


def make_workspace(root: Path, server: Server, recipient: str) -> Path:
    """Its node1 is ``server``; backups are encrypted to ``recipient`` and signed with the key of this machine."""
    for name, source in ((".smallkube/ssh_key", "user"), ("keys/hosts/node1.pub", "host.pub")):
        (root / name).parent.mkdir(parents=True)
        shutil.copy(server.folder / source, root / name)
    (root / "keys/master_key.pub").write_text(f"{recipient}\n")
    ssh = f"{{host: 127.0.0.1, port: {server.port}, user: root}}"
    entries = f"  node1: {{peer_ip: 192.0.2.1, ssh: {ssh}}}\n  node2: {{peer_ip: 192.0.2.2}}\n"
    (root / "inventory.yaml").write_text(f"cluster: {{name: bench}}\nnodes:\n{entries}")
    signature.signing_key(Workspace(root))
    return root


def backup(root: Path, template: Path, words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Command and environment of `etcd.backup` in ``root``, a new copy of the workspace ``template``."""
    shutil.copytree(template, root)
    argv = [str(INV), "etcd.backup", *words, "--scratch", str(root / "scratch")]
    return argv, {**os.environ, "SMALLKUBE_WORKSPACE": str(root)}
