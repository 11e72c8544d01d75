"""Proves the scripts that run on machines as far as they run anywhere: what is received is whole or not there at all,
one holds the lock, one decides, and shellcheck finds nothing.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smallkube.deploy import facts
from smallkube.nix.bundle import Bundle

Completed = subprocess.CompletedProcess[bytes]
Run = Callable[..., Completed]
FOLDER = Path(facts.__file__).with_name("scripts")


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

    def run_one(name: str, *arguments: str, stdin: bytes = b"") -> Completed:
        text = (FOLDER / f"{name}.sh").read_text()
        text = text.replace("/var/lib/smallkube", f"{root}/lib").replace("/run/smallkube", f"{root}/run/smallkube")
        text = text.replace("/nix/var/nix/gcroots", f"{root}/gcroots")
        environment = {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}"}
        argv = ["sh", "-c", text, name, *arguments]
        return subprocess.run(argv, input=stdin, capture_output=True, env=environment, timeout=60)

    return run_one


def receive(run: Run, bundle: Bundle, archive: bytes | None = None) -> Completed:
    expected = hashlib.sha256(bundle.archive).hexdigest()
    return run("receive", "bundles", bundle.digest, expected, stdin=bundle.archive if archive is None else archive)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


BUNDLE = Bundle({"keys/peers.json": b"[]", "nix/deep/er/x.nix": b"\0\xff" * 5000})


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(root: Path, script: Path) -> None:
    done = subprocess.run(["shellcheck", "--shell=sh", str(script)], capture_output=True, text=True)
    assert done.stdout == ""
    first, second = script.read_text().splitlines()[:2]
    assert (first, second[:2]) == ("#!/bin/sh", "# ")


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


def take(run: Run, owner: str, nonce: str, holder: str) -> tuple[int, str]:
    done = run("lock", "take", owner, nonce, holder)
    return done.returncode, done.stderr.decode().strip()


def test_one_holds_the_lock_and_others_are_told_who(run: Run, root: Path) -> None:
    assert take(run, "ann@laptop", "1", "here") == (0, "")
    status, said = take(run, "bob@desk", "2", "there")
    assert status == 75
    assert said.startswith("locked by ann@laptop since ")
    run("lock", "drop", "2")
    assert take(run, "bob@desk", "2", "there")[0] == 75
    run("lock", "drop", "1")
    assert take(run, "bob@desk", "2", "there") == (0, "")


def test_the_lock_of_a_killed_process_of_the_same_workspace_is_taken_over(run: Run, root: Path) -> None:
    take(run, "ann@laptop", "1", "here")
    status, said = take(run, "ann@laptop", "2", "here")
    assert (status, said.startswith("took over the lock of ann@laptop")) == (0, True)
    run("lock", "drop", "1")
    assert take(run, "bob@desk", "3", "there")[0] == 75


@pytest.mark.parametrize(("minutes", "status"), [(14, 75), (16, 0)])
def test_a_lock_that_was_not_refreshed_is_taken_over(run: Run, root: Path, minutes: int, status: int) -> None:
    take(run, "ann@laptop", "1", "here")
    lock = root / "run/smallkube/lock"
    before = lock.stat().st_mtime - minutes * 60
    os.utime(lock, (before, before))
    assert take(run, "bob@desk", "2", "there")[0] == status


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


def system(root: Path, status: int = 0) -> str:
    program = root / "old/bin/switch-to-configuration"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\necho "$@" >>{root}/switched\nexit {status}\n')
    program.chmod(0o755)
    return str(root / "old")


def progress(run: Run, nonce: str) -> facts.Progress:
    return facts.parse_progress(run("progress", nonce).stdout.decode())


def test_of_confirmation_and_rollback_one_decides(run: Run, root: Path) -> None:
    old = system(root)
    for number in range(12):
        nonce = f"n{number}"
        (root / "run/smallkube" / nonce).mkdir(parents=True)
        with ThreadPoolExecutor(2) as pool:
            back = pool.submit(run, "rollback", nonce, old)
            confirmed = pool.submit(run, "decide", nonce).result().returncode == 0
            back.result()
        now = progress(run, nonce)
        assert (now.outcome, now.rollback_status) == (("confirmed", None) if confirmed else ("rolled back", 0))


def test_a_confirmation_after_a_restart_is_too_late(run: Run, root: Path) -> None:
    done = run("decide", "n")
    assert (done.returncode, done.stderr) == (3, b"too late: the machine was restarted meanwhile\n")
    assert not progress(run, "n").begun


@pytest.mark.parametrize("status", [0, 4])
def test_a_rollback_tells_how_it_ended_and_disarms_its_timer(run: Run, root: Path, status: int) -> None:
    run("rollback", "n", system(root, status))
    assert (root / "switched").read_text() == "test\n"
    now = progress(run, "n")
    assert (now.begun, now.outcome, now.rollback_status) == (True, "rolled back", status)
    assert "stop smallkube-rollback-n.timer" in (root / "systemctl.log").read_text()
    run("rollback", "n", str(root / "old"))
    assert (root / "switched").read_text() == "test\n"


def test_a_rollback_to_nothing_fails(run: Run, root: Path) -> None:
    run("rollback", "n", "/nix/store/gone")
    assert progress(run, "n").rollback_status == 1


def test_a_build_ends_when_nobody_waits_for_it(run: Run, root: Path) -> None:
    """The program that builds takes a while and has children."""
    builder = root / "bin/nixos-rebuild"
    builder.write_text("#!/bin/sh\nsleep 600 & wait\n")
    builder.chmod(0o755)
    assert run("build", "digest", "node1").returncode not in (0, None)


def test_a_build_prints_the_path_of_what_it_built(run: Run, root: Path) -> None:
    builder = root / "bin/nixos-rebuild"
    builder.write_text('#!/bin/sh\necho "$@"\nln -sfn / result\n')
    builder.chmod(0o755)
    text = (FOLDER / "build.sh").read_text().replace("/var/lib/smallkube", f"{root}/lib")
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
