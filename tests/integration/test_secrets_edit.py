"""`keys.edit` with real editors (scripts): re-encrypts only what changed and is valid, and leaves no clear text."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SHARED = Path("/dev/shm")
MEMORY = SHARED / f"smallkube-test-{os.getpid()}"
"""Other test runs on this machine edit secrets at the same time."""


@pytest.fixture(autouse=True)
def memory(needs: Callable[[str, object, str], None]) -> Iterator[None]:
    needs("integration", SHARED.is_dir() and os.access(SHARED, os.W_OK), "/dev/shm")
    MEMORY.mkdir(mode=0o700)
    yield
    shutil.rmtree(MEMORY)


def editor(cluster: Any, body: str) -> dict[str, str]:
    path = cluster.private / "editor"
    path.write_text(f"#!/bin/sh\nset -e\n{body}\n")
    path.chmod(0o755)
    return {"EDITOR": str(path), "VISUAL": "", "XDG_RUNTIME_DIR": str(MEMORY)}


def leftovers() -> set[str]:
    return {path.name for path in MEMORY.glob("smallkube-edit-*")}


def test_a_valid_change_is_saved_for_the_same_readers(ready: Any) -> None:
    token = "x" * 64
    ready.done("keys.edit", "kube_token_root", **editor(ready, f"echo {token} > $1"))
    assert ready.done("keys.show", "kube_token_root") == token + "\n"
    assert json.loads(ready.done("keys.check", "--json"))["problems"] == []
    assert leftovers() == set()


def test_it_is_edited_in_private_in_memory(ready: Any) -> None:
    seen = ready.private / "seen"
    report = f'stat -c "%a %a" "$(dirname "$1")" "$1" > {seen}; dirname "$1" >> {seen}; cp "$1" "$1~"'
    ready.done("keys.edit", "issuer.key", **editor(ready, report))
    first, second, folder = seen.read_text().split("\n")[:3]
    assert (first, second) == ("700 700", "600 600")
    assert folder.startswith(f"{MEMORY}/smallkube-edit-")
    assert leftovers() == set()


def test_without_a_runtime_folder_it_is_edited_in_shared_memory(ready: Any) -> None:
    seen = ready.private / "seen"
    environment = editor(ready, f'dirname "$1" > {seen}') | {"XDG_RUNTIME_DIR": ""}
    ready.done("keys.edit", "issuer.key", **environment)
    assert seen.read_text().startswith(f"{SHARED}/smallkube-edit-")


def test_unchanged_means_untouched(ready: Any) -> None:
    before = ready.snapshot()
    assert ready.done("keys.edit", "issuer.key", **editor(ready, "true")) == "unchanged\n"
    assert ready.snapshot() == before


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("kube_token_root", "echo short > $1", "a token is one line"),
        ("kube_token_root", ": > $1", "is empty"),
        ("wgkube1.key", "echo nonsense > $1", "not a WireGuard private key"),
        ("EncryptionConfiguration.yaml", "echo 'a: [' > $1", "not an EncryptionConfiguration"),
        ("apiserver.key", "echo x > $1", "not a private key in PEM"),
        ("apiserver.key", "exit 3", "the editor ended with status 3"),
        ("apiserver.key", "rm $1", "the editor removed the file"),
    ],
)
def test_nothing_changes_when_the_result_is_no_such_secret(ready: Any, name: str, body: str, said: str) -> None:
    before = ready.snapshot()
    run = ready.inv("keys.edit", name, **editor(ready, body))
    assert run.returncode == 1 and said in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
    assert ready.snapshot() == before
    assert leftovers() == set()


def test_what_is_derived_follows(ready: Any) -> None:
    peers = ready.workspace.peers_file.read_text()
    ready.done("keys.edit", "wgkube2.key", **editor(ready, "wg genkey > $1"))
    assert ready.workspace.peers_file.read_text() != peers
    other = ready.private / "other.key"
    argv = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(other)]
    subprocess.run(argv, check=True)
    ready.done("keys.edit", "apiserver.key", **editor(ready, f"cat {other} > $1"))
    assert json.loads(ready.done("keys.check", "--json"))["problems"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_wipes_the_clear_text(ready: Any, number: signal.Signals) -> None:
    before = ready.snapshot()
    began = ready.private / "began"
    environment = ready.environment(**editor(ready, f"echo changed > $1; touch {began}; exec sleep 30"))
    process = subprocess.Popen(
        ready.command("keys.edit", "kube_token_root"), env=environment, stderr=subprocess.PIPE, start_new_session=True
    )
    while process.poll() is None and not began.exists():
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=20)
    assert process.returncode in (1, 130) and b"Traceback" not in said
    assert leftovers() == set()
    assert ready.snapshot() == before


def test_what_a_killed_edit_left_is_wiped_by_the_next(ready: Any) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    folder = MEMORY / f"smallkube-edit-{gone.pid}-left"
    folder.mkdir(mode=0o700)
    (folder / "kube_token_root").write_text("secret")
    ready.done("keys.edit", "issuer.key", **editor(ready, "true"))
    assert not folder.exists()


def test_an_editor_that_is_not_here(ready: Any) -> None:
    run = ready.inv("keys.edit", "issuer.key", EDITOR="/nonexistent/ed", VISUAL="", XDG_RUNTIME_DIR="")
    assert run.returncode == 2 and "set EDITOR" in run.stderr
