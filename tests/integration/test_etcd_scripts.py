"""What etcd's scripts share (lib.sh): text becomes JSON, and keys are found in any YAML; the swap of the data; what the
scripts of a deploy say of etcd.
"""

import base64
import hashlib
import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from smallkube.deploy import facts
from smallkube.etcd import status
from smallkube.etcd.status import SCRIPTS
from smallkube.secrets import kinds
from smallkube.secrets.policy import Kind
from tests.integration.etcd import VERSIONS, Etcd, full, programs

LIBRARY = Path(status.__file__).with_name("scripts") / "lib.sh"
SECRETS = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]
FIRST, SECOND = SECRETS
LAYOUTS = {
    "block": f"keys:\n- name: key1\n  secret: {FIRST}\n- name: key2\n  secret: {SECOND}\n",
    "flow": f"keys: [{{secret: {FIRST}, name: key1}}, {{name: key2, secret: {SECOND}}}]\n",
    "json": json.dumps({"keys": [{"name": f"key{n}", "secret": each} for n, each in enumerate(SECRETS, 1)]}),
    "comments": f"# name: no\nkeys: # secret: no\n- name: key1\t# name\n  # secret: x\n  secret: {FIRST} #\n"
    f"- name: key2\n  secret: {SECOND}\n",
    "CRLF": f'keys:\r\n- name: key1\r\n  secret: {FIRST}\r\n- name: key2\r\n  secret: "{SECOND}" # x\r\n',
    "blocks": f"- name: |-\n    key1\n  secret: >-\n    {FIRST}\n- name: !!str key2\n  secret: &a {SECOND}\n",
    "other providers": f"- kms: {{name: k, endpoint: e}}\n- secretbox:\n    keys: [{{secret: {FIRST}, name: key1}}]\n"
    f"- aescbc: {{keys: [{{name: key2, secret: {SECOND}}}]}}\n",
    "quoted": f"- name: 'key1'\n  secret: \"{FIRST}\"\n-\n  secret: '{SECOND}'\n  name: \"key2\"\n",
}


def run(function: str, stdin: str) -> str:
    argv = ["sh", "-c", f"{LIBRARY.read_text()}\n{function}"]
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("script", sorted(LIBRARY.parent.glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path, needs: Callable[[str, object, str], None]) -> None:
    needs("integration", shutil.which("shellcheck"), "shellcheck")
    done = subprocess.run(["shellcheck", "--shell=sh", str(script)], capture_output=True, text=True)
    assert done.stdout == ""


@pytest.mark.parametrize("without", ["", "command() { false; }; "], ids=["openssl", "coreutils"])
def test_any_program_hashes_alike(without: str) -> None:
    assert run(f"{without}sha256", "snapshot").strip() == hashlib.sha256(b"snapshot").hexdigest()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_encryption_keys_are_found_in_each_layout(layout: str) -> None:
    expected = [f"{hashlib.sha256(each.encode()).hexdigest()} key{n}" for n, each in enumerate(SECRETS, 1)]
    assert run("encryption_keys /dev/stdin", LAYOUTS[layout]).splitlines() == expected


@st.composite
def configurations(draw: st.DrawFn) -> str:
    """An EncryptionConfiguration in one of the ways in which an operator may have written it."""
    name = st.from_regex(r"[A-Za-z0-9._-]{1,8}|name|secret|keys|key[1-9]", fullmatch=True)
    names = draw(st.lists(name, min_size=1, max_size=3, unique=True))
    secrets = [base64.b64encode(bytes([number]) * 32).decode() for number in range(len(names))]
    pairs = [[("name", name), ("secret", secret)] for name, secret in zip(names, secrets, strict=True)]
    keys = [dict(draw(st.permutations(pair))) for pair in pairs]
    providers: list[Any] = [{"secretbox": {"keys": keys}}, {"identity": {}}]
    part = {"resources": ["secrets", "names.secret.keys"], "providers": draw(st.permutations(providers))}
    document = {"apiVersion": "v1", "kind": "EncryptionConfiguration", "resources": [part]}
    if draw(st.booleans()):
        return json.dumps(document, indent=draw(st.sampled_from([None, 2])))
    style, flow = draw(st.sampled_from([None, "'", '"', "|", ">"])), draw(st.sampled_from([None, True, False]))
    text = yaml.safe_dump(document, default_style=style, default_flow_style=flow, width=999)
    comments = [""] if style in ("|", ">") else ["", " # name: no", "  # secret: 'x"]
    rows = [row + draw(st.sampled_from(comments)) for row in text.splitlines()]
    return draw(st.sampled_from(["\n", "\r\n"])).join([*rows, ""])


@given(configurations())
@settings(max_examples=60)
def test_the_scripts_read_the_keys_that_yaml_has(written: str) -> None:
    kinds.validate(Kind.ENCRYPTION, written.encode(), "x")
    keys = kinds.encryption_keys(written.encode())
    expected = [f"{hashlib.sha256(secret.encode()).hexdigest()} {name}" for name, secret in keys]
    assert run("encryption_keys /dev/stdin", written).splitlines() == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_the_first_key_is_compared_with_etcd(
    version: str, tmp_path: Path, needs: Callable[[str, object, str], None]
) -> None:
    found = programs(version)
    needs("integration", found, f"etcd {version}")
    assert found
    name = "my.key-of_".ljust(40, "x")
    configuration = tmp_path / "configuration"
    configuration.write_text(f"# name: no\nkeys: [{{secret: '{FIRST}', \"name\": '{name}'}}]\n")
    with Etcd(tmp_path / "e", found).running() as etcd:
        etcd.put({"/a": f"k8s:enc:secretbox:v1:{name}:\0hunter2".encode(), "/b": b"hunter2"})
        for key, begins in (("/a", f"k8s:enc:secretbox:v1:{name}"), ("/b", "clear")):
            argv = ["sh", "-c", SCRIPTS.text("encrypted"), "encrypted", etcd.endpoint, key, str(configuration)]
            done = subprocess.run(argv, env={"PATH": etcd.path}, capture_output=True, text=True, check=True)
            assert done.stdout == f"{begins}\n{name}\n"


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
    """systemd is replaced by a script that runs the real etcd; no previous data, because mv may not exchange here.

    The history, which is ten revisions, is removed in a few seconds, as a large one is.
    """
    etcd = full(version, tmp_path, needs)
    for name in ("new", "state/run", "bin"):
        (tmp_path / name).mkdir(parents=True)
    restore = f"{etcd.programs}/etcdutl snapshot restore {tmp_path}/snapshot --data-dir {tmp_path}/new/data"
    bumped = ("--bump-revision", "1000000000", "--mark-compacted")
    subprocess.run([*restore.split(), *bumped], check=True, capture_output=True)
    start = f"cd {etcd.folder} && exec {shlex.join(etcd.argv('restored'))}"
    systemctl = tmp_path / "bin/systemctl"
    systemctl.write_text(SYSTEMCTL.format(start=f"sh -c {shlex.quote(start)}", folder=tmp_path))
    systemctl.chmod(0o755)
    state = tmp_path / "state/run"
    words = (str(etcd.folder / "restored"), str(tmp_path / "new"), str(state), etcd.endpoint, "30")
    slowly = {"BATCH_LIMIT": "1", "SLEEP_INTERVAL": "250ms"}
    environment = {f"ETCD_EXPERIMENTAL_COMPACTION_{name}": value for name, value in slowly.items()}
    environment |= {"PATH": f"{systemctl.parent}:{etcd.path}"}
    try:
        subprocess.run(["sh", "-c", SCRIPTS.text("swap-data-dir"), "swap", *words], env=environment, check=True)
        assert (state / "outcome").read_text() == "restored\nnone\n"
        assert "disarm the alarm NOSPACE" in (state / "log").read_text()
        assert etcd.ctl("endpoint", "health").returncode == 0
        (found,) = json.loads(etcd.ctl("endpoint", "status", "--write-out", "json").stdout)
        assert found["Status"]["dbSize"] < 1 << 19
        assert etcd.ctl("put", "/registry/large", "x" * 80_000).returncode == 0
        assert etcd.ctl("alarm", "list").stdout == ""
    finally:
        subprocess.run([systemctl, "stop", "etcd.service"], check=True)


RUNNING = """#!/bin/sh
case $* in *LoadState*) echo loaded ;; *Timestamp*) echo 0 ;; esac
"""


def health(etcd: Etcd, folder: Path) -> tuple[str, str]:
    """What a deploy's check and `net.check` say of etcd."""
    (folder / "systemctl").write_text(RUNNING)
    (folder / "systemctl").chmod(0o755)
    environment = {"PATH": f"{folder}:{etcd.path}"}

    def run(name: str, *words: str) -> Any:
        script = facts.SCRIPTS.bundle.files[f"{name}.sh"].decode().replace("/run/etcd", str(etcd.folder))
        argv = ["sh", "-c", script, name, *words]
        return json.loads(subprocess.run(argv, env=environment, capture_output=True, check=True).stdout)

    checks = {
        row["check"]: f"{row['result']}: {row['detail']}" for row in run("checks", "node", "primary", "1")["checks"]
    }
    return checks["etcd"], run("facts", "host", "1400", "digest", "--")["etcd"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_deploy_names_the_alarm(version: str, tmp_path: Path, needs: Callable[[str, object, str], None]) -> None:
    folder = programs(version)
    needs("integration", folder, f"etcd {version}")
    assert folder
    with Etcd(tmp_path / "e", folder, quota=1 << 20).running() as etcd:
        assert health(etcd, tmp_path) == ("ok: healthy", "healthy")
        etcd.fill()
        assert health(etcd, tmp_path) == ("failed: unhealthy: alarm NOSPACE", "unhealthy: alarm NOSPACE")
