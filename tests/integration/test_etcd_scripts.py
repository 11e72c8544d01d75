"""What etcd's scripts share (lib.sh): text becomes JSON, and keys are found in any layout of YAML."""

import base64
import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from smallkube.etcd import status

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
