"""How long a backup of etcd takes over SSH, against saving, copying, hashing and encrypting it step by step."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lab.etcd
from bench.harness import QUICK, Plan, Row, absent, command, compare
from lab.places import Places
from smallkube.core import ui
from smallkube.core.errors import UsageError
from smallkube.core.workspace import REPOSITORY
from smallkube.etcd.ephemeral import find_programs
from tests.integration.etcd import Etcd
from tests.integration.sshd import Server

VALUE = 8192
OLDEST = (3, 5)
OURS = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
from smallkube.core.workspace import Workspace
from smallkube.etcd import backup, signature
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.remote.ssh import SshHost
root, endpoint, recipient = sys.argv[1:]
workspace = Workspace(Path(root))
cluster = Cluster(workspace, load(workspace.inventory_file))
ours = backup.Identity("bench", (recipient,), signature.signing_key(workspace))
options = backup.Options(endpoint, f"{root}/scratch")
with SshHost(workspace, cluster.inventory.primary) as host, backup.locked(cluster, make=True) as existing:
    existing.remove(backup.take(host, existing, ours, datetime.now(UTC), options).name)
(workspace.root / "memory").write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024))
"""
THEIRS = """
set -e
etcdctl --endpoints "$endpoint" snapshot save remote.db >/dev/null
scp -q -F none -P "$port" -i user -o UserKnownHostsFile=known root@127.0.0.1:"$PWD/remote.db" local.db
test "$(head -c -32 local.db | sha256sum | cut -d ' ' -f 1)" = "$(tail -c 32 local.db | od -An -v -tx1 | tr -d ' \\n')"
age -r "$recipient" -o local.age local.db
rm -f remote.db local.db local.age
"""


def rows(plan: Plan) -> Iterator[Row]:
    if absent("etcd.backup", "sshd", "ssh-keygen", "scp", "age", "age-keygen", "zstd"):
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
    for name, source in (("user", "user"), (".smallkube/ssh_key", "user"), ("keys/hosts/node1.pub", "host.pub")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((server.folder / source).read_bytes())
        (root / name).chmod(0o600)
    (root / "known").write_text(f"[127.0.0.1]:{server.port} {(server.folder / 'host.pub').read_text()}")
    (server.folder / "authorized_keys").write_text(
        f'environment="PATH={etcd.path}" {(server.folder / "user.pub").read_text()}'
    )
    ssh = f"{{host: 127.0.0.1, port: {server.port}, user: root}}"
    entries = f"  node1: {{peer_ip: 192.0.2.1, ssh: {ssh}}}\n  node2: {{peer_ip: 192.0.2.2}}\n"
    (root / "inventory.yaml").write_text(f"cluster: {{name: bench}}\nnodes:\n{entries}")
    values = {"endpoint": etcd.endpoint, "port": str(server.port), "recipient": recipient, "PATH": etcd.path}
    row = compare(
        plan,
        f"etcd.backup of {megabytes} MB",
        command([sys.executable, "-c", OURS, root, etcd.endpoint, recipient], cwd=REPOSITORY),
        "snapshot save, scp, sha256sum, age",
        command(["sh", "-c", THEIRS], cwd=root, env={**os.environ, **values}),
        "at most 1.1 times",
    )
    goal = "" if plan is QUICK else " (goal: below 100)"
    ui.message(f"memory of our process at {megabytes} MB: {(root / 'memory').read_text()} MiB{goal}")
    return row
