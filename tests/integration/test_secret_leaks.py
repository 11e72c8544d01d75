"""Every task that needs no machine, under strace: secrets are in no argument, environment, log or file in clear.

The tasks that need machines are run by tests/lab/test_secret_leaks.py and tests/cluster/test_secret_leaks.py.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smallkube.core.workspace import REPOSITORY
from tests import age_plugin, leaks
from tests.integration.conftest import PreparedWorkspace
from tests.integration.etcd import like_kubernetes
from tests.integration.test_etcd_backup import server
from tests.leaks import KUBECONFIG, Allowed, Canaries, Traced

Needs = Callable[[str, object, str], None]
MEMORY = Path("/dev/shm") / f"smallkube-leaks-{os.getpid()}"
IDENTITIES = Allowed(r"/keys/\.tmp-master_key\.|/keys/master_key$", "master_key", "where the identities are kept, 0600")
ASKED = "the operator asked for it"
NEW_KEY = Allowed(r"/host/etc/ssh/(\.tmp-)?ssh_host_ed25519_key", "host key", f"{ASKED}; mode 0600")
SUBSTITUTES = " ".join(
    f"--override-input {name}=path:{REPOSITORY}/lab/nix{folder}"
    for name, folder in (("nixpkgs", ""), ("agenix", "/agenix"))
)
RUNS: tuple[tuple[str, tuple[Allowed, ...]], ...] = (
    ("doctor", ()),
    ("inventory.check", ()),
    ("inventory.schema", ()),
    ("inventory.show", ()),
    ("inventory.import {folder}/nodes.json --yes", ()),
    ("keys.generate", (IDENTITIES,)),
    ("keys.new-host node2 --replace --out {folder}/host", (NEW_KEY,)),
    ("keys.check --json", ()),
    ("keys.rekey", ()),
    ("keys.list --json", ()),
    ("keys.prune --yes", ()),
    ("keys.show issuer.key", (Allowed(r"/stdout$", r"issuer\.key", ASKED),)),
    ("keys.edit kube_token_root", (Allowed(rf"^{MEMORY}/smallkube-edit-", "kube_token_root", "in memory only"),)),
    ("keys.rotate-wireguard --yes", ()),
    ("keys.rotate-certificates --all --no-deploy --yes", ()),
    ("keys.rotate-master --yes", (IDENTITIES,)),
    (f"admins.add anna --recipient {leaks.RECIPIENT}", ()),
    ("admins.list --json", ()),
    ("keys.rotate-issuer --dry-run", ()),
    ("nix.render", ()),
    (f"nix.check {SUBSTITUTES}", ()),
    ("nodes.add node3 --peer-ip 192.168.0.3", ()),
    ("nodes.remove node2 --yes", ()),
    ("nodes.remove node2 --revoke --dry-run", ()),
    # No machine answers; tests/cluster traces it with all that they do.
    ("cluster.report", ()),
    ("cluster.kubeconfig", (KUBECONFIG,)),
    ("cluster.kubeconfig --out -", (Allowed(r"/stdout$", "kube_token_root", ASKED),)),
    ("lab.status", ()),
    ("lab.prune --dry-run", ()),
)
"""What is run, and where a secret may be written, to which the reason belongs; {folder} is not in the workspace."""
AT_ETCD = (
    "etcd.backup --local",
    "etcd.list",
    "etcd.verify",
    "etcd.prune --yes",
    "etcd.drill",
    "etcd.schedule",
    "etcd.restore --dry-run",
)  # fmt: skip


@pytest.fixture(autouse=True)
def memory(needs: Needs) -> Iterator[None]:
    needs("integration", leaks.available(), "strace, with the right to trace")
    needs("integration", MEMORY.parent.is_dir() and os.access(MEMORY.parent, os.W_OK), "/dev/shm")
    MEMORY.mkdir(mode=0o700)
    yield
    shutil.rmtree(MEMORY)


class TracedOperator:
    """Runs tasks on ``cluster`` under strace; ``canaries`` are the secrets that were ever in its keys/."""

    def __init__(self, cluster: PreparedWorkspace, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.canaries = Canaries()

    def run(self, line: str, **more: str) -> Traced:
        task, *words = line.split()
        environment = self.cluster.environment(TMPDIR=str(self.temporary), **more)
        self.canaries.read(self.cluster.workspace)
        done = leaks.traced(self.cluster.command(task, "--verbose", *words), self.folder / task, environment)
        self.canaries.read(self.cluster.workspace)
        return done

    def leaks(self, done: Traced, allowed: tuple[Allowed, ...] = ()) -> list[str]:
        found = done.trace.leaks(self.canaries, allowed)
        for folder in (self.cluster.workspace.root, self.temporary):
            found += leaks.in_files(folder, self.canaries, allowed=(IDENTITIES, *allowed))
        return found


@pytest.fixture
def operator(ready: PreparedWorkspace, tmp_path: Path) -> TracedOperator:
    return TracedOperator(ready, tmp_path / "ready")


def editor(cluster: PreparedWorkspace) -> dict[str, str]:
    path = cluster.private / "editor"
    path.write_text("#!/bin/sh\ntr a-y b-z <$1 >$1~\nmv $1~ $1\n")
    path.chmod(0o755)
    return {"EDITOR": str(path), "VISUAL": "", "XDG_RUNTIME_DIR": str(MEMORY)}


def test_every_task_is_traced_or_named(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "invoke", "--search-root", str(REPOSITORY), "--list", "--list-format=json"]
    tree = json.loads(subprocess.run(argv, capture_output=True, check=True, cwd=tmp_path).stdout)
    tasks = {f"{group['name']}.{task['name']}" for group in tree["collections"] for task in group["tasks"]}
    tasks |= {task["name"] for task in tree["tasks"]}
    lines = (*(line for line, _ in RUNS), *AT_ETCD, *leaks.ON_MACHINES, *leaks.ON_CLUSTER, leaks.ON_NEW_PRIMARY,
             leaks.UNTIL_INTERRUPTED)  # fmt: skip
    words = {word for line in lines if "--dry-run" not in line for word in line.split()}
    carried_out = {"deploy.deploy" if word == "deploy" else word for word in words}
    assert tasks - carried_out == set(leaks.NOT_TRACED)


LEAK = """\
case $1 in
argument) /bin/true "$2" ;;
environment) secret=$2 /bin/true ;;
encoded) printf %s "user:$2:x" | base64 --wrap=0 >/dev/null ;;
removed) echo "$2" >"$TMPDIR/file"; rm "$TMPDIR/file" ;;
pieces) exec 3>"$TMPDIR/file"; printf %.20s "$2" >&3; printf %s "$2" | tail -c +21 >&3 ;;
esac
"""


@pytest.mark.parametrize("way", ["argument", "environment", "encoded", "removed", "pieces"])
def test_a_leak_is_found(way: str, tmp_path: Path) -> None:
    """The script gets the secret as an argument itself, which counts as a leak of its own program only."""
    canaries = Canaries()
    canaries.add("token", b"1aB" * 20 + b"\n")
    (tmp_path / "leak").write_text(LEAK)
    argv = ["/bin/sh", str(tmp_path / "leak"), way, "1aB" * 20]
    done = leaks.traced(argv, tmp_path / "trace", {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)})
    assert done.status == 0, done.stderr.read_text()
    found = [leak for leak in done.trace.leaks(canaries) if "of /bin/sh" not in leak and "pipe:" not in leak]
    place = {"argument": "/bin/true", "environment": "/bin/true", "encoded": "/dev/null"}.get(way, f"{tmp_path}/file")
    assert [leak.endswith(place) for leak in found] == [True], found
    left = [f"token is in {tmp_path}/file"] if way == "pieces" else []
    assert leaks.in_files(tmp_path, canaries) == left


def test_a_leak_of_a_child_of_a_task_is_found(operator: TracedOperator) -> None:
    path = operator.cluster.private / "leaking"
    path.write_text("#!/bin/sh\ncp $1 $TMPDIR/copy\nrm $TMPDIR/copy\n")
    path.chmod(0o755)
    done = operator.run("keys.edit issuer.key", **{**editor(operator.cluster), "EDITOR": str(path)})
    (leak,) = operator.leaks(done, (Allowed(rf"^{MEMORY}/smallkube-edit-", r"issuer\.key", "in memory only"),))
    assert leak == f"issuer.key written to {operator.temporary}/copy"


@pytest.mark.parametrize(("line", "allowed"), RUNS, ids=[line.split(" --")[0] for line, _ in RUNS])
def test_a_task_leaks_no_secret(line: str, allowed: tuple[Allowed, ...], operator: TracedOperator) -> None:
    if line.startswith("keys.generate"):
        shutil.rmtree(operator.cluster.keys)
        for index in (1, 2):
            operator.cluster.new_host_key(f"node{index}")
    if line.startswith("keys.rekey"):
        operator.cluster.new_host_key("node2")
    if line.startswith(("nix.check", "nodes.remove", "cluster.report")):
        operator.cluster.done("nix.render")
    if line.startswith("inventory.import"):
        (operator.folder / "nodes.json").write_text('{"node1": "192.168.0.1", "node3": "192.168.0.3"}')
    if line.startswith("cluster.report"):
        operator.cluster.close_machines()
    done = operator.run(line.format(folder=operator.folder), **editor(operator.cluster))
    assert done.status == 0, done.stderr.read_text()
    if line.startswith("keys.new-host"):
        operator.canaries.add("host key", (operator.folder / "host/etc/ssh/ssh_host_ed25519_key").read_bytes())
    assert len(operator.canaries.texts) > 10
    assert operator.leaks(done, allowed) == []
    assert all(any(one.covers(*seen) for seen in done.trace.seen(operator.canaries)) for one in allowed), "not needed"


def test_an_age_plugin_leaks_no_secret(operator: TracedOperator, needs: Needs) -> None:
    """Between this process, age and the plugin secrets pass through pipes, and nowhere else."""
    needs("integration", shutil.which("age"), "age (age)")
    age_plugin.install(operator.cluster.private)
    secret = bytes(range(32))
    identity = operator.cluster.private / "carl"
    identity.write_text(age_plugin.identity_file(secret))
    search = f"{operator.cluster.private}{os.pathsep}{os.environ['PATH']}"
    pipes = Allowed("pipe:", ".*", "to and from age, and its plugin")
    added = operator.run(f"admins.add carl --recipient {age_plugin.recipient(secret)}", PATH=search)
    shown = operator.run("keys.show kube_token_root", PATH=search, SMALLKUBE_IDENTITY=str(identity))
    for done, allowed in ((added, (pipes,)), (shown, (pipes, Allowed(r"/stdout$", "kube_token_root", ASKED)))):
        assert done.status == 0, done.stderr.read_text()
        assert operator.leaks(done, allowed) == []
        assert all(any(one.covers(*seen) for seen in done.trace.seen(operator.canaries)) for one in allowed)


def test_the_tasks_of_etcd_leak_no_secret(ready: PreparedWorkspace, tmp_path: Path, needs: Needs) -> None:
    operator = TracedOperator(ready, tmp_path / "ready")
    with server(tmp_path / "e", "3.6", needs).running() as etcd:
        etcd.put(like_kubernetes())
        place = f"--endpoint {etcd.endpoint} --scratch {tmp_path}/scratch"
        for task in AT_ETCD:
            done = operator.run(f"{task} {place if task.startswith('etcd.backup') else ''}", PATH=etcd.path)
            assert done.status == (1 if task == "etcd.drill" else 0), f"{task}: {done.stderr.read_text()}"
            assert operator.leaks(done, leaks.KEPT) == [], task
