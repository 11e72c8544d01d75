"""Verifies the scripts of a deploy as far as they run here: what is received is whole or missing, one operator has the
lock, one side decides, the JSON is valid, and shellcheck finds nothing.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from smallkube.core import polling
from smallkube.deploy import facts, history, preflight
from smallkube.deploy.etcd_versions import EtcdFacts
from smallkube.inventory.models import Node
from smallkube.nix.bundle import Bundle
from smallkube.remote import scripts
from smallkube.remote.fake import FakeHost
from smallkube.remote.host import Command, Result
from tests.integration import etcd

Completed = subprocess.CompletedProcess[bytes]
Run = Callable[..., Completed]
RECEIVE = Path(scripts.__file__).with_name("scripts") / "receive.sh"
SCRIPTS = {**facts.SCRIPTS.bundle.files, "receive.sh": RECEIVE.read_bytes()}


@pytest.fixture
def root(tmp_path: Path, needs: Callable[[str, object, str], None]) -> Iterator[Path]:
    """A folder that stands for /var/lib and /run of a machine."""
    needs("integration", shutil.which("shellcheck"), "shellcheck")
    yield tmp_path


@pytest.fixture
def run(root: Path) -> Run:
    """``run(script, *arguments, stdin=b"")``: a script with its folders moved under ``root``."""
    bin_dir = root / "bin"
    bin_dir.mkdir()
    (bin_dir / "systemctl").write_text(f'#!/bin/sh\necho "$@" >>{root}/systemctl.log\n')
    (bin_dir / "systemctl").chmod(0o755)
    (root / "run").mkdir()
    for file in SCRIPTS:
        (bin_dir / file).write_text(moved(file, root))

    def run_one(name: str, *arguments: str, stdin: bytes = b"") -> Completed:
        script = root / "bin" / f"{name}.sh"
        environment = {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}"}
        return subprocess.run(
            ["sh", str(script), *arguments], input=stdin, capture_output=True, env=environment, timeout=60
        )

    return run_one


def moved(name: str, root: Path) -> str:
    """A script whose folders are below ``root``."""
    text = SCRIPTS[name].decode()
    text = text.replace("/var/lib/smallkube", f"{root}/lib").replace("/run/smallkube", f"{root}/run/smallkube")
    text = text.replace("/run/current-system", f"{root}/current-system").replace("/etc/smallkube", f"{root}/etc")
    return text.replace("/nix/var/nix/", f"{root}/")


def receive(run: Run, bundle: Bundle, archive: bytes | None = None) -> Completed:
    expected = hashlib.sha256(bundle.archive).hexdigest()
    return run("receive", "bundles", bundle.digest, expected, stdin=bundle.archive if archive is None else archive)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


BUNDLE = Bundle({"keys/peers.json": b"[]", "nix/deep/er/x.nix": b"\0\xff" * 5000})


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_shellcheck_finds_nothing(root: Path, name: str) -> None:
    done = subprocess.run(["shellcheck", "--shell=sh", "-"], input=SCRIPTS[name], capture_output=True)
    assert done.stdout == b""


def test_what_arrives_is_what_was_sent(run: Run, root: Path) -> None:
    assert receive(run, BUNDLE).returncode == 0
    assert content(root / "lib/bundles" / BUNDLE.digest) == dict(BUNDLE.files)
    assert (root / "lib").stat().st_mode & 0o077 == 0


def test_receiving_it_again_changes_nothing(run: Run, root: Path) -> None:
    receive(run, BUNDLE)
    before = (root / "lib/bundles" / BUNDLE.digest / "keys/peers.json").stat()
    assert receive(run, BUNDLE, b"").returncode == 0
    assert (root / "lib/bundles" / BUNDLE.digest / "keys/peers.json").stat().st_ino == before.st_ino


@pytest.mark.parametrize("length", [0, 1, 511, 512, 5000, -1])
def test_half_of_it_is_none_of_it(run: Run, root: Path, length: int) -> None:
    done = receive(run, BUNDLE, BUNDLE.archive[:length])
    assert done.returncode == 1
    assert done.stderr == b"what arrived is not what was sent\n"
    assert list((root / "lib/bundles").iterdir()) == []


def test_several_at_once_are_as_good_as_one(run: Run, root: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda _: receive(run, BUNDLE), range(6)))
    assert [each.returncode for each in done] == [0] * 6
    assert [path.name for path in (root / "lib/bundles").iterdir()] == [BUNDLE.digest]
    assert content(root / "lib/bundles" / BUNDLE.digest) == dict(BUNDLE.files)


def test_the_newest_are_kept_and_leftovers_go(run: Run, root: Path) -> None:
    leftover = root / "lib/bundles/.new.killed"
    leftover.mkdir(parents=True)
    (leftover / "archive").write_text("half")
    os.utime(leftover, (0, 0))
    bundles = [Bundle({"x": str(number).encode()}) for number in range(7)]
    for number, bundle in enumerate(bundles):
        receive(run, bundle)
        os.utime(root / "lib/bundles" / bundle.digest, (number, number))
    receive(run, BUNDLE)
    kept = {path.name for path in (root / "lib/bundles").iterdir()}
    assert kept == {bundle.digest for bundle in (*bundles[-4:], BUNDLE)}


def take(run: Run, owner: str, nonce: str, holder: str, *words: str) -> tuple[int, str]:
    done = run(*(words or ("activation", "lock")), owner, nonce, holder, *(["bundle", "scripts"] if words else []))
    return done.returncode, done.stderr.decode().strip()


def test_the_holder_of_the_lock_is_named_to_others(run: Run, root: Path) -> None:
    assert take(run, "ann@laptop", "1", "here") == (0, "")
    status, said = take(run, "bob@desk", "2", "there")
    assert status == 75
    assert said.startswith("locked by ann@laptop since ")
    run("activation", "unlock", "2")
    assert take(run, "bob@desk", "2", "there")[0] == 75
    run("activation", "unlock", "1")
    assert take(run, "bob@desk", "2", "there") == (0, "")


def test_the_lock_is_taken_and_facts_read_at_once(run: Run, root: Path) -> None:
    assert take(run, "ann@laptop", "1", "here", "facts", "locked")[0] == 0
    status, said = take(run, "bob@desk", "2", "there", "facts", "locked")
    assert (status, said.startswith("locked by ann@laptop since ")) == (75, True)
    assert json.loads(run("facts", "locked", "ann", "3", "here", "b", "s").stdout)["has_bundle"] is False
    assert (root / "run/smallkube/lock/nonce").read_text().strip() == "3"


def test_the_lock_of_a_killed_process_is_taken_over(run: Run, root: Path) -> None:
    take(run, "ann@laptop", "1", "here")
    status, said = take(run, "ann@laptop", "2", "here")
    assert (status, said.startswith("took over the lock of ann@laptop")) == (0, True)
    run("activation", "unlock", "1")
    assert take(run, "bob@desk", "3", "there")[0] == 75


@pytest.mark.parametrize(("minutes", "status"), [(14, 75), (16, 0)])
def test_a_lock_that_was_not_refreshed_is_taken_over(run: Run, root: Path, minutes: int, status: int) -> None:
    take(run, "ann@laptop", "1", "here")
    lock = root / "run/smallkube/lock"
    before = lock.stat().st_mtime - minutes * 60
    os.utime(lock, (before, before))
    assert take(run, "bob@desk", "2", "there")[0] == status


@pytest.mark.parametrize(("nonce", "status"), [("1", 75), ("2", 0)])
def test_only_its_holder_refreshes_a_lock(run: Run, root: Path, nonce: str, status: int) -> None:
    take(run, "ann@laptop", "1", "here")
    os.utime(root / "run/smallkube/lock", (0, 0))
    assert run("activation", "refresh", nonce).returncode == 0
    assert take(run, "bob@desk", "3", "there")[0] == status


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_at_once_exactly_one_gets_the_lock(run: Run, root: Path, stale: bool) -> None:
    if stale:
        take(run, "gone@laptop", "0", "gone")
        os.utime(root / "run/smallkube/lock", (0, 0))
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda number: take(run, f"op{number}", str(number), f"at{number}"), range(1, 9)))
    assert sorted(status for status, _ in done) == [0] + [75] * 7
    winner = next(number for number, (status, _) in enumerate(done, 1) if status == 0)
    assert (root / "run/smallkube/lock/nonce").read_text().strip() == str(winner)


@pytest.mark.parametrize(("seconds", "result"), [(1, "skipped"), (20, "ok")])
def test_a_check_is_tried_again_within_its_seconds(run: Run, root: Path, seconds: int, result: str) -> None:
    """More often than once in each of them; a single one is a single try."""
    tried = root / "tried"
    active = f'echo x >>{tried}; [ "$(wc -l <{tried})" -gt 22 ] && echo active'
    stub = f'#!/bin/sh\ncase "$*" in\n*=LoadState*) echo loaded ;;\nis-active*) {active} ;;\nesac\n'
    (root / "bin/systemctl").write_text(stub)
    (kubelet,) = json.loads(run("checks", "node", "worker", str(seconds)).stdout)["checks"]
    assert (kubelet["check"], kubelet["result"]) == ("kubelet", result)
    assert len(tried.read_text().split()) == (23 if result == "ok" else 1)


def test_a_sent_script_gets_no_standard_input(root: Path) -> None:
    """Otherwise a command of it could read, and so skip, the rest of it."""
    (root / "x.sh").write_text('cat; echo "$1"; exit 3\n')
    command = scripts.Scripts(root).sent("x", "done")
    done = subprocess.run(command.argv, input=command.stdin, capture_output=True)
    assert (done.returncode, done.stdout) == (3, b"done\n")


TEXTS = ["", "a", 'a "b" \\c\\\n', "tab\tline\n\nescape \x1b[31m ü €", "\ufffd", "/a-b_c.d:e=f,g@h+1 i", "-n", "%s*"]


@pytest.mark.parametrize("text", TEXTS)
def test_words_survive_the_scripts(root: Path, text: str) -> None:
    (root / "x.sh").write_text('begin x; string word "$1"; list lines "$1"; end\n')
    command = scripts.Scripts(root).sent("x", text)
    done = subprocess.run(command.argv, input=command.stdin, capture_output=True, check=True)
    lines = [line for line in text.split("\n") if line]
    assert json.loads(done.stdout) == {"script": "x", "word": text, "lines": lines}


@pytest.mark.parametrize("text", TEXTS)
def test_strings_survive_the_scripts(run: Run, root: Path, text: str) -> None:
    log = root / "run/smallkube/n/log"
    log.parent.mkdir(parents=True)
    log.write_text(text)
    assert progress(run, "n").log == text.removesuffix("\n")


def test_a_log_of_any_bytes_is_readable(run: Run, root: Path) -> None:
    log = root / "run/smallkube/n/log"
    log.parent.mkdir(parents=True)
    log.write_bytes(bytes(range(256)) * 100)
    assert "abc" in progress(run, "n").log


def test_facts_are_of_the_expected_shape(run: Run, root: Path) -> None:
    store = root / "store-system"
    store.mkdir()
    (root / "profiles").mkdir()
    for name, target in (("system-7-link", store), ("system-12-link", store), ("system", Path("system-12-link"))):
        (root / "profiles" / name).symlink_to(target)
    found = facts.generations(host(run))
    assert found.systems == {"7": str(store), "12": str(store)}
    assert (found.current, found.find("")) == ("12", str(store))
    history = root / "lib/history.jsonl"
    history.parent.mkdir()
    history.write_text('{"digest": "\\"d"}\ncut by a power los')
    read = scripts.read(host(run), facts.SCRIPTS.sent("facts", "deploy", "d", "s"), facts.DeployFacts)
    assert (read.profile, read.generation, read.last_deploy) == (str(store), "12", None)
    assert read.history == ('{"digest": "\\"d"}', "cut by a power los")
    arguments = ("host", "1420", "d", "a.service", "--", "127.0.0.1", "192.0.2.255")
    measured = scripts.read(host(run), facts.SCRIPTS.sent("facts", *arguments), facts.HostFacts)
    assert set(measured.ping) == set(measured.mtu) == {"127.0.0.1", "192.0.2.255"}
    assert measured.bridge == frozenset()


CHAINS = """\
table inet nixos-fw {
\tchain input {
\t\ttype filter hook input priority filter; policy drop;
\t}
\tchain forward {
\t\ttype filter hook forward priority filter; policy drop;
\t}
}
table ip filter {
\tchain FORWARD {
\t\ttype filter hook forward priority filter; policy drop;
\t}
}
table inet kube-guard {
\tchain forward {
\t\ttype filter hook forward priority filter; policy accept;
\t}
}
"""
ENDPOINTS = "K1=\t[2001:db8::1]:51820\nK2=\t192.0.2.9:51820\nK3=\t(none)\nK4=\t[fe80::1%eth0]:1\n"
ROUTE = 'case $* in *2001*) echo "2001:db8::1 from :: via fe80::9 dev e src 2001:db8::2 metric 1" ;; esac'


def test_facts_of_sources_and_of_chains_that_drop(run: Run, root: Path) -> None:
    (root / "chains").write_text(CHAINS)
    (root / "endpoints").write_text(ENDPOINTS)
    programs = {
        "nft": f'[ "$2" != chains ] || cat {root}/chains',
        "wg": f'[ "$3" != endpoints ] || cat {root}/endpoints',
        "ip": ROUTE,
    }
    for name, text in programs.items():
        (root / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (root / "bin" / name).chmod(0o755)
    command = facts.SCRIPTS.sent("facts", "host", "1420", "d", "a.service", "--")
    measured = scripts.read(host(run), command, facts.HostFacts)
    assert measured.dropping == ("inet nixos-fw forward", "ip filter FORWARD")
    assert measured.sources == {"2001:db8::1": "2001:db8::2", "192.0.2.9": ""}


PING = """for address; do :; done
echo "$*" >>{root}/pings
case $address in
192.0.2.1) echo "64 bytes from $address: icmp_seq=1 ttl=64 time=0.25 ms" ;;
192.0.2.2) exit 1 ;;
*) exit 2 ;;
esac"""


def test_what_is_silent_is_asked_no_more_than_needed(run: Run, root: Path) -> None:
    (root / "bin/ping").write_text(f"#!/bin/sh\n{PING.format(root=root)}\n")
    (root / "bin/ping").chmod(0o755)
    addresses = ["192.0.2.1", "192.0.2.2", *(f"198.51.100.{number}" for number in range(1, 251))]
    command = facts.SCRIPTS.sent("facts", "host", "1420", "d", "a.service", "--", *addresses)
    measured = scripts.read(host(run), command, facts.HostFacts)
    answers = dict.fromkeys(addresses) | {"192.0.2.1": 0.25}
    assert (measured.ping, measured.mtu) == (answers, answers)
    asked = Counter(line.split()[-1] for line in (root / "pings").read_text().splitlines())
    assert asked == dict.fromkeys(addresses, 1) | {"192.0.2.1": 2, "192.0.2.2": 3}


@pytest.mark.parametrize(("age", "waits"), [(170, False), (190, True), (None, True)])
def test_of_two_nodes_without_a_session_the_later_one_waits(run: Run, root: Path, age: int | None, waits: bool) -> None:
    programs = {
        "wg": f'[ "$3" != latest-handshakes ] || echo "K1=\t{0 if age is None else int(time.time()) - age}"',
        "ping": f'for address; do :; done; echo "$address" >>{root}/asked; exit 2',
        "sleep": f"until grep -q 3 {root}/asked; do :; done; echo waited >>{root}/asked",
    }
    for name, text in programs.items():
        (root / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (root / "bin" / name).chmod(0o755)
    command = facts.SCRIPTS.sent("facts", "host", "1420", "d", "a.service", "--", "192.0.2.3", "--", "192.0.2.1")
    assert scripts.read(host(run), command, facts.HostFacts).ping == {"192.0.2.3": None, "192.0.2.1": None}
    asked = (root / "asked").read_text().split()
    assert asked == ["192.0.2.3", "waited", "192.0.2.1"] if waits else sorted(asked) == ["192.0.2.1", "192.0.2.3"]


def test_etcd_versions_are_those_of_programs_and_data(
    run: Run, root: Path, needs: Callable[[str, object, str], None]
) -> None:
    programs = etcd.programs("3.6")
    needs("integration", programs, "etcd 3.6 with etcdctl and etcdutl (make lab-kubernetes)")
    assert programs
    for folder in ("new", "current-system"):
        (root / folder / "sw/bin").mkdir(parents=True)
        (root / folder / "sw/bin/etcd").symlink_to(programs / "etcd")
    (root / "bin/etcdctl").symlink_to(programs / "etcdctl")
    with tempfile.TemporaryDirectory() as short, etcd.Etcd(Path(short) / "e", programs).running() as server:

        def storage() -> str:
            """etcd says it a few seconds after its first start (server/v3/etcdserver/version/monitor.go)."""
            (status,) = json.loads(server.ctl("endpoint", "status", "-w", "json").stdout)
            return str(status["Status"].get("storageVersion", ""))

        polling.wait_until(lambda: [] if storage() else ["no storage version"], 60, "etcd says none")
        command = facts.SCRIPTS.sent("facts", "etcd", str(root / "new"), server.endpoint)
        found = scripts.read(host(run), command, EtcdFacts)
        assert found.data == storage()
    assert (found.running, found.target) == (etcd.version(programs), etcd.version(programs))


def test_an_etcd_that_does_not_run_is_not_asked(run: Run, root: Path) -> None:
    (root / "bin/etcdctl").write_text(f"#!/bin/sh\ntouch {root}/asked\n")
    (root / "bin/etcdctl").chmod(0o755)
    command = facts.SCRIPTS.sent("facts", "etcd", str(root / "new"), f"unix://{root}/grpc")
    assert scripts.read(host(run), command, EtcdFacts) == EtcdFacts("", "", "")
    assert not (root / "asked").exists()


def test_what_was_deployed_is_told_before_anything_is_sent(run: Run, root: Path) -> None:
    empty = facts.deployed(host(run))
    assert (empty.effective, empty.peers, empty.public_key, empty.wireguard) == ((), "", "", {})
    (root / "etc").mkdir()
    (root / "etc/peers.json").write_text("[]")
    keys = root / "lib/bundles" / BUNDLE.digest / "keys"
    keys.mkdir(parents=True)
    (keys / "wgkube1.key.age").write_text("secret")
    (keys / "wgkube11.key.age").write_text("another's")
    entry = history.Entry("t", "o", "switch", BUNDLE.digest, "/nix/store/x", "1", "deployed", "", "id", "commit")
    (root / "lib/history.jsonl").write_text(json.dumps(asdict(entry)) + "\n")
    (keys.parent / "nix/rendered").mkdir(parents=True)
    texts = ['  domain = "k8s.internal";\n  port = 6443;\n', '  nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";\n']
    for file, text in zip(preflight.FILES, texts, strict=True):
        (keys.parent / file).write_text(text)
    scripted(root, "wg", "echo KEY=")
    found = facts.deployed(host(run))
    assert preflight.last_values(found) == {"domain": "k8s.internal", "port": "6443", "nixpkgs.url": "25.11"}
    assert (found.effective, found.keys, found.public_key) == ((entry,), "id", "KEY=")
    assert found.wireguard == {BUNDLE.digest: hashlib.sha256(b"secret").hexdigest()}
    sent = [history.sent(f"id{number}") for number in range(300)]
    with (root / "lib/history.jsonl").open("a") as lines:
        lines.writelines(f"\n{json.dumps(asdict(one))}\n" for one in sent)
    found = facts.deployed(host(run))
    assert (found.effective, found.keys, len(found.history)) == ((entry,), "id299", 2)
    assert found.peers == hashlib.sha256(b"[]").hexdigest()


def system(root: Path, status: int = 0) -> str:
    program = root / "old/bin/switch-to-configuration"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\necho "$@" >>{root}/switched\nexit {status}\n')
    program.chmod(0o755)
    return str(root / "old")


def host(run: Run) -> FakeHost:
    """A machine on which the scripts of a deploy run as ``run`` runs them."""

    def answer(command: Command) -> Result:
        pushed = command.argv[1] != "-c"
        name = Path(command.argv[1]).stem if pushed else command.name
        done = run(name, *command.argv[2 if pushed else 4 :])
        return Result(done.returncode, done.stdout, done.stderr.decode())

    return FakeHost(Node(name="node1", index=1, peer_ip="192.168.0.1"), answer)


def progress(run: Run, nonce: str, tenths: int = 0) -> facts.Progress:
    return facts.progress(host(run), nonce, tenths)


def test_either_confirmation_or_rollback_decides(run: Run, root: Path) -> None:
    old = system(root)
    for number in range(12):
        nonce = f"n{number}"
        (root / "run/smallkube" / nonce).mkdir(parents=True)
        with ThreadPoolExecutor(2) as pool:
            back = pool.submit(run, "rollback", nonce, old, "/nix/store/new")
            confirmed = pool.submit(run, "activation", "confirm", nonce).result().returncode == 0
            back.result()
        now = progress(run, nonce)
        assert (now.outcome, now.rollback_status) == (("confirmed", None) if confirmed else ("rolled back", 0))


def test_a_confirmation_after_a_restart_is_too_late(run: Run, root: Path) -> None:
    done = run("activation", "confirm", "n")
    assert (done.returncode, done.stderr) == (3, b"too late: the machine has restarted\n")
    assert not progress(run, "n").begun


@pytest.mark.parametrize("status", [0, 4])
def test_a_rollback_records_its_status_and_stops_its_timer(run: Run, root: Path, status: int) -> None:
    run("rollback", "n", system(root, status), "/nix/store/new")
    assert (root / "switched").read_text() == "test\n"
    now = progress(run, "n")
    assert (now.begun, now.outcome, now.rollback_status) == (True, "rolled back", status)
    assert "stop smallkube-rollback-n.timer" in (root / "systemctl.log").read_text()
    run("rollback", "n", str(root / "old"), "/nix/store/new")
    assert (root / "switched").read_text() == "test\n"


@pytest.mark.parametrize("status", [0, 4])
def test_an_activation_records_its_status_and_log(run: Run, root: Path, status: int) -> None:
    (root / "run/smallkube/n").mkdir(parents=True)
    assert run("activation", "switch", "n", system(root, status)).returncode == 0
    now = progress(run, "n")
    assert (now.begun, now.status, now.outcome) == (True, status, "")
    assert (root / "switched").read_text() == "test\n"


@pytest.mark.parametrize("event", ["status", "held"])
def test_the_end_of_an_activation_is_waited_for(run: Run, root: Path, event: str) -> None:
    state = root / "run/smallkube/n"
    scripted(
        root, "sleep", f'echo "$1" >>{root}/slept\n[ "$(grep -c . {root}/slept)" -lt 3 ] || echo 4 >{state}/{event}'
    )
    assert not progress(run, "n", 50).begun
    state.mkdir(parents=True)
    assert progress(run, "n", 2).status is None
    now = progress(run, "n", 50)
    assert (now.status, now.held) == ((4, False) if event == "status" else (None, True))
    assert (root / "slept").read_text() == "0.1\n" * 3


def test_activation_and_rollback_run_in_units_of_their_own(run: Run, root: Path) -> None:
    starter = root / "bin/systemd-run"
    starter.write_text(f'#!/bin/sh\nfor word; do echo "$word"; done >>{root}/started\n')
    starter.chmod(0o755)
    (root / "old").mkdir()
    (root / "gcroots").mkdir()
    (root / "current-system").symlink_to("old")
    assert run("activation", "arm", "n", "300", "/nix/store/new").returncode == 0
    assert run("activation", "activate", "n", "/nix/store/new").returncode == 0
    started = (root / "started").read_text().splitlines()
    assert started[-4:] == [str(root / "bin/activation.sh"), "switch", "n", "/nix/store/new"]
    assert {"--unit=smallkube-rollback-n", "--on-active=300", "--unit=smallkube-activate-n"} <= set(started)
    at = started.index(str(root / "bin/rollback.sh"))
    assert started[at : at + 4] == [str(root / "bin/rollback.sh"), "n", str(root / "old"), "/nix/store/new"]
    assert (root / "gcroots/smallkube-rollback").readlink() == root / "old"


def test_held_activation_is_seen_and_released(run: Run, root: Path) -> None:
    scripted(root, "systemd-run", "exit 0")
    state = root / "run/smallkube/n"
    assert run("activation", "activate", "n", "/nix/store/new").returncode == 0
    assert not (state / "hold").exists()
    assert run("activation", "activate", "n", "/nix/store/new", "hold").returncode == 0
    assert (state / "hold").exists()
    assert not progress(run, "n").held
    (state / "held").touch()
    assert progress(run, "n").held
    assert abs(progress(run, "n").clock / 1_000_000 - time.time()) < 60
    assert run("activation", "release", "n", "1795704562854123").returncode == 0
    assert (state / "hold").read_text() == "1795704562854123\n"
    run("rollback", "n", system(root), "/nix/store/new")
    assert not (state / "hold").exists()
    assert run("activation", "release", "n", "1795704562854123").returncode == 0
    assert not (state / "hold").exists()


def test_a_rollback_that_cannot_note_its_decision_still_happens(run: Run, root: Path) -> None:
    """Such as when /run is full."""
    link = root / "bin/ln"
    link.write_text("#!/bin/sh\nexit 1\n")
    link.chmod(0o755)
    run("rollback", "n", system(root), "/nix/store/new")
    assert (root / "switched").read_text() == "test\n"


def test_stale_rollbacks_are_run_to_their_end(run: Run, root: Path) -> None:
    run("activation", "run-stale-rollbacks", "smallkube-rollback-1.timer", "smallkube-rollback-1.service")
    log = (root / "systemctl.log").read_text().splitlines()
    assert log == ["start --wait smallkube-rollback-1.service", "stop smallkube-rollback-1.timer"] * 2


def test_a_commit_prints_the_generation_alone(run: Run, root: Path) -> None:
    (root / "profiles").mkdir()
    program = root / "bin/nix-env"
    program.write_text(f'#!/bin/sh\necho noise\nln -sfn {root}/old "$2-13-link"\nln -sfn "${{2##*/}}-13-link" "$2"\n')
    program.chmod(0o755)
    done = run("activation", "commit", system(root))
    assert (done.returncode, done.stdout) == (0, b"13\n")
    assert (root / "switched").read_text() == "boot\n"


def scripted(root: Path, name: str, body: str) -> None:
    """A program of the machine."""
    (root / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
    (root / "bin" / name).chmod(0o755)


@pytest.mark.parametrize("reboots", [True, False])
@pytest.mark.parametrize("new_boots", [True, False])
@pytest.mark.parametrize(
    ("statuses", "ended"),
    [([1, 0], 0), ([2, 3, 1, 1, 4], 4), ([124], 124), ([1] * 5, 1), ([100, 1, 1, 1, 2], 2), ([], 1)],
)
def test_a_rollback_is_retried_and_ends_in_a_reboot(
    run: Run, root: Path, statuses: list[int], ended: int, new_boots: bool, reboots: bool
) -> None:
    """``statuses`` of switch-to-configuration in their order; none: there is no previous system."""
    (root / "profiles").mkdir()
    for each in ("old", "new"):
        (root / each / "bin").mkdir(parents=True)
    (root / "profiles/system").symlink_to(root / ("new" if new_boots else "old"))
    scripted(root, "sleep", f"echo pause >>{root}/switched")
    refused = "" if reboots else '[ "$1" != reboot ]'
    scripted(root, "systemctl", f'echo "$@" >>{root}/systemctl.log\n{refused}')
    (root / "statuses").write_text("".join(f"{status}\n" for status in statuses))
    if statuses:
        program = root / "old/bin/switch-to-configuration"
        take = f"read -r status <{root}/statuses; sed -i 1d {root}/statuses"
        program.write_text(f'#!/bin/sh\necho "$@" >>{root}/switched\n{take}\nexit "$status"\n')
        program.chmod(0o755)
    run("rollback", "n", str(root / "old"), str(root / "new"))
    done = (root / "switched").read_text().split() if statuses else []
    assert done == " pause ".join(["test"] * len(statuses)).split()
    asked = "reboot" in (root / "systemctl.log").read_text().splitlines()
    assert asked == (ended not in (0, 4) and not new_boots)
    assert progress(run, "n").rollback_status == (None if asked and reboots else ended)


@pytest.mark.parametrize(
    ("state", "armed"), [("running", True), ("degraded", True), ("", True), ("stopping", False), ("maintenance", False)]
)
def test_no_rollback_is_armed_where_none_would_run(run: Run, root: Path, state: str, armed: bool) -> None:
    scripted(root, "systemctl", f'[ "$1" = is-system-running ] && echo "{state}"; [ "{state}" = running ]')
    scripted(root, "systemd-run", f'echo "$@" >>{root}/started')
    (root / "gcroots").mkdir()
    done = run("activation", "arm", "n", "300", "/nix/store/new")
    assert ((done.returncode == 0), (root / "started").exists()) == (armed, armed)
    assert armed or f'the state "{state}"' in done.stderr.decode()


def test_a_build_ends_with_its_standard_input(run: Run, root: Path) -> None:
    """The program that builds takes a while and has children."""
    builder = root / "bin/nixos-rebuild"
    builder.write_text("#!/bin/sh\nsleep 600 & wait\n")
    builder.chmod(0o755)
    assert run("build", "digest", "node1").returncode not in (0, None)


def test_a_build_prints_the_path_of_what_it_built(run: Run, root: Path) -> None:
    builder = root / "bin/nixos-rebuild"
    builder.write_text('#!/bin/sh\necho "$@"\nln -sfn / result\n')
    builder.chmod(0o755)
    text = moved("build.sh", root)
    environment = {**os.environ, "PATH": f"{root}/bin:{os.environ['PATH']}"}
    with subprocess.Popen(
        ["sh", "-c", text, "build", "digest", "node1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read() == b"/\n"
        assert process.stderr.read().decode().startswith(f"build --flake path:{root}/lib/bundles/digest?dir=nix#node1")
    assert process.returncode == 0
