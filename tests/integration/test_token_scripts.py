"""What tokens-in-use.sh reports, with a systemctl that answers as told."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from smallkube.core.workspace import REPOSITORY

SCRIPT = REPOSITORY / "smallkube/kube/scripts/tokens-in-use.sh"
SYSTEMCTL = """#!/bin/sh
case "$*" in
  *is-active*kubelet*) exit %d ;;
  *is-active*) exit 3 ;;
  *ActiveEnterTimestamp*) echo @1000 ;;
  *LoadState*kubelet*) echo loaded ;;
  *LoadState*) echo not-found ;;
esac
"""


def in_use(folder: Path, *clients: str, active: bool = True) -> list[str]:
    systemctl = folder / "bin/systemctl"
    systemctl.parent.mkdir(exist_ok=True)
    systemctl.write_text(SYSTEMCTL % (0 if active else 3))
    systemctl.chmod(0o755)
    text = SCRIPT.read_text().replace("/run/credentials", str(folder))
    environment = {**os.environ, "PATH": f"{systemctl.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/sh", "-c", text, "tokens-in-use", *clients], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.splitlines()


def file(path: Path, text: str, written: int = 1000) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.utime(path, (written, written))
    return str(path)


HASH = hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize(
    "text", ["abc\n", '{\n  "users": [\n    "token": "abc"\n  ]\n}\n', 'users:\n    token: "abc"\n']
)
def test_a_token_is_found_bare_and_in_kubeconfigs(text: str, tmp_path: Path) -> None:
    root = file(tmp_path / "kubeconfig-root", text)
    file(tmp_path / "coredns.service/kubeconfig", text)
    arguments = ("root", root, "coredns", "%d/kubeconfig", "kube-proxy", "%d/kubeconfig", "nothing", "/nonexistent")
    assert in_use(tmp_path, *arguments) == [f"root {HASH}", f"coredns {HASH}"]


def test_a_service_that_started_before_its_file_needs_a_restart(tmp_path: Path) -> None:
    path = file(tmp_path / "kubeconfig-node", "abc\n")
    assert in_use(tmp_path, "kubelet", path) == [f"kubelet {HASH}"]
    file(tmp_path / "kubeconfig-node", "abc\n", written=1001)
    assert in_use(tmp_path, "kubelet", path) == ["kubelet -"]
    assert in_use(tmp_path, "kubelet", path, active=False) == []
