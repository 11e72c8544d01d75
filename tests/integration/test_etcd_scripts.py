"""What etcd's scripts share (lib.sh): text becomes JSON, and keys are found in any YAML; the swap of the data."""

import base64
import hashlib
import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from smallkube.etcd import status
from smallkube.etcd.status import SCRIPTS
from tests.integration.etcd import VERSIONS, Etcd, programs

LIBRARY = Path(status.__file__).with_name("scripts") / "lib.sh"
SECRETS = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]
FIRST, SECOND = SECRETS
LAYOUTS = {
    "block": f"keys:\n- name: key1\n  secret: {FIRST}\n- name: key2\n  secret: {SECOND}\n",
    "flow": f"keys: [{{secret: {FIRST}, name: key1}}, {{name: key2, secret: {SECOND}}}]\n",
    "json": json.dumps({"keys": [{"name": f"key{n}", "secret": each} for n, each in enumerate(SECRETS, 1)]}),
    "quoted": f"- name: 'key1'\n  secret: \"{FIRST}\"\n-\n  secret: '{SECOND}'\n  name: \"key2\"\n",
}


def run(function: str, stdin: str) -> str:
    argv = ["sh", "-c", f"{LIBRARY.read_text()}\n{function}"]
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_encryption_keys_are_found_in_each_layout(layout: str) -> None:
    expected = [f"{hashlib.sha256(each.encode()).hexdigest()} key{n}" for n, each in enumerate(SECRETS, 1)]
    assert run("encryption_keys /dev/stdin", LAYOUTS[layout]).splitlines() == expected


@pytest.mark.parametrize("lines", [[], ["one"], ['a "quoted" \\ path', "$(x) `y` 'z'", "", "grün"]])
def test_lines_become_json(lines: list[str]) -> None:
    assert json.loads(run("json_lines", "".join(f"{line}\n" for line in lines))) == lines


def test_control_characters_do_not_break_json() -> None:
    assert json.loads(run("json_lines", "a\tb\x1b[2J\n")) == ["ab[2J"]


SYSTEMCTL = """#!/bin/sh
# etcd is the only unit; {start} runs it.
case $* in
"show --property LoadState --value etcd.service") echo loaded ;;
"start etcd.service")
  {start} >/dev/null 2>&1 9>&- &
  echo $! >{folder}/pid ;;
"stop etcd.service") kill "$(cat {folder}/pid)" ;;
"--quiet is-active etcd.service") [ -e {folder}/pid ] && kill -0 "$(cat {folder}/pid)" ;;
esac
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_restore_disarms_nospace(version: str, tmp_path: Path, needs: Callable[[str, object, str], None]) -> None:
    """systemd is replaced by a script that runs the real etcd; no previous data, because mv may not exchange here."""
    found = programs(version)
    needs("integration", found, f"etcd {version}")
    assert found
    etcd = Etcd(tmp_path / "e", found, quota=1 << 20)
    with etcd.running():
        etcd.fill()
        etcd.ctl("snapshot", "save", str(tmp_path / "snapshot"))
    for name in ("new", "state/run", "bin"):
        (tmp_path / name).mkdir(parents=True)
    restore = f"{found}/etcdutl snapshot restore {tmp_path}/snapshot --data-dir {tmp_path}/new/data"
    bumped = ("--bump-revision", "1000000000", "--mark-compacted")
    subprocess.run([*restore.split(), *bumped], check=True, capture_output=True)
    start = f"cd {etcd.folder} && exec {shlex.join(etcd.argv('restored'))}"
    systemctl = tmp_path / "bin/systemctl"
    systemctl.write_text(SYSTEMCTL.format(start=f"sh -c {shlex.quote(start)}", folder=tmp_path))
    systemctl.chmod(0o755)
    state = tmp_path / "state/run"
    words = (str(etcd.folder / "restored"), str(tmp_path / "new"), str(state), etcd.endpoint, "30")
    environment = {"PATH": f"{systemctl.parent}:{etcd.path}"}
    try:
        subprocess.run(["sh", "-c", SCRIPTS.text("swap-data-dir"), "swap", *words], env=environment, check=True)
        assert (state / "outcome").read_text() == "restored\nnone\n"
        assert "disarm the alarm NOSPACE" in (state / "log").read_text()
        assert etcd.ctl("endpoint", "health").returncode == 0
        assert etcd.ctl("put", "/registry/large", "x" * 80_000).returncode == 0
        assert etcd.ctl("alarm", "list").stdout == ""
    finally:
        subprocess.run([systemctl, "stop", "etcd.service"], check=True)
