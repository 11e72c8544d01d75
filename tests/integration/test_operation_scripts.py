"""Proves the scripts with which operations ask machines, as far as they run anywhere: what they print is JSON, counts
what is there, and has no secret.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from smallkube.core.errors import SmallkubeError
from smallkube.operations import machines
from smallkube.operations.cluster_facts import Running
from smallkube.operations.issuer import key_id_of_token
from smallkube.remote.scripts import parse
from tests.integration import etcd
from tests.unit.fake_cluster import head_of

SCRIPTS = Path(machines.__file__).with_name("scripts")
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\nBBBB\n-----END CERTIFICATE-----\n"
OTHER = PEM.replace("AAAA", "CCCC")
Run = Callable[..., Any]


@pytest.fixture
def pods(tmp_path: Path) -> Path:
    return tmp_path / "kubelet" / "pods"


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A short path: sockets have at most 107 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``run(script, *arguments, stdin="")``: what it prints, with the kubelet's folder moved under ``tmp_path``."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def run_one(name: str, *arguments: str, stdin: str = "", **programs_of: str) -> Any:
        for program, text in programs_of.items():
            (programs / program).write_text(f"#!/bin/sh\n{text}\n")
            (programs / program).chmod(0o755)
        text = (SCRIPTS / f"{name}.sh").read_text().replace("/var/lib/kubelet", f"{tmp_path}/kubelet")
        text = text.replace(" /run/", f" {tmp_path}/")
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        argv = ["sh", "-c", text, name, *arguments]
        done = subprocess.run(argv, input=stdin.encode(), capture_output=True, env=environment, timeout=60)
        assert (done.returncode, done.stderr) == (0, b""), done
        return json.loads(done.stdout)

    return run_one


def projected(pods: Path, uid: str, name: str, text: str) -> None:
    file = pods / uid / "volumes/kubernetes.io~projected" / "kube-api-access-x" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path, needs: Callable[[str, object, str], None]) -> None:
    needs("integration", shutil.which("shellcheck"), "shellcheck")
    done = subprocess.run(["shellcheck", "--shell=sh", str(script)], capture_output=True, text=True)
    assert done.stdout == ""


def test_pods_that_lack_a_certificate_are_counted(run: Run, pods: Path) -> None:
    assert run("authorities", stdin=PEM) == 0
    projected(pods, "a", "ca.crt", OTHER + PEM)
    projected(pods, "b", "ca.crt", OTHER)
    projected(pods, "c", "ca.crt", OTHER)
    assert run("authorities", stdin=PEM) == 2


def test_the_tokens_of_pods_say_who_signed_them_and_stay(run: Run, pods: Path) -> None:
    assert run("signed", "pods") == []
    projected(pods, "a", "token", f"{head_of('one')}.payload.signature")
    projected(pods, "b", "token", f"{head_of('two')}.payload.signature\n")
    projected(pods, "b", "not \"a' token", 'eyJ".x.y')
    projected(pods, "b", "ca.crt", PEM)
    found = run("signed", "pods")
    assert sorted(map(key_id_of_token, found)) == ["one", "two"]
    assert "payload" not in str(found)


def test_the_tokens_of_secrets_say_who_signed_them_and_stay(run: Run) -> None:
    printed = f"echo a/x {head_of('one')}.payload.signature; echo 'b/y '"
    found = run("signed", "secrets", kubectl=printed)
    assert {name: key_id_of_token(head) for name, head in found.items()} == {"a/x": "one", "b/y": ""}
    assert "payload" not in str(found)
    assert run("signed", "secrets", kubectl="") == {}


KUBECTL = """
import json, pathlib, sys
store, (verb, *words) = pathlib.Path(sys.argv[1]), sys.argv[2:]
names = [word for word in words[1:] if not word.startswith("--")]
with (store / "calls").open("a") as calls:
    calls.write(verb + "\\n")
if verb == "get" and not names:
    for path in sorted(store.glob("*/*")):
        print(path.name, path.parent.name)
elif verb == "get":
    *names, space = names
    there = [path for name in names if (path := store / space / name).exists()]
    items = [{"path": str(path), "version": path.read_text()} for path in there]
    print(json.dumps({"items": items}) if items else "", end="")
    # Meanwhile somebody changes this one, and deletes that one.
    if "changed" in names and not (store / "meanwhile").exists():
        (store / "meanwhile").touch()
        (store / space / "changed").write_text("1")
        (store / space / "deleted").unlink()
else:
    (file,) = (word.partition("=")[2] for word in words if word.startswith("--filename="))
    for item in json.loads(pathlib.Path(file).read_text())["items"]:
        path = pathlib.Path(item["path"])
        if not path.exists():
            sys.exit("Error from server (NotFound): not there")
        if path.read_text() != item["version"]:
            sys.exit("Error from server (Conflict): the object has been modified")
        path.write_text(item["version"] + "+")
"""
"""Stands in for kubectl and the objects of an API server, each of which counts how often it was replaced."""


def test_objects_that_change_meanwhile_are_written_too(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for space, number in (("a", 41), ("b", 5)):
        (store / space).mkdir(parents=True)
        for index in range(number):
            (store / space / f"object-{index}").write_text("0")
    for name in ("changed", "deleted"):
        (store / "b" / name).write_text("0")
    (tmp_path / "kubectl.py").write_text(KUBECTL)
    stand_in = f'exec {sys.executable} {tmp_path}/kubectl.py {store} "$@"'
    assert run("rewrite", "kubeconfig", "secrets", kubectl=stand_in) == 48
    found = {str(path.relative_to(store)): path.read_text() for path in store.glob("*/*")}
    assert found.pop("b/changed") == "1+"
    assert len(found) == 46 and set(found.values()) == {"0+"}
    assert (store / "calls").read_text().split().count("replace") == 3 + 1 + 6
    assert not list(tmp_path.glob("smallkube-*"))


def main_pids(pids: Mapping[str, int | str]) -> str:
    """systemctl of services with these processes: a line for each that it is asked for, and empty ones between."""
    cases = " ".join(f"{name}.service) echo {pid} ;;" for name, pid in pids.items())
    return f"for unit; do case $unit in {cases} *) continue ;; esac; echo; done"


def test_versions_are_those_of_what_runs(run: Run) -> None:
    found = run("running", "kubelet", "kube-proxy", systemctl=main_pids({"kubelet": "$PPID", "kube-proxy": 0}))
    assert found["kernel"] == os.uname().release
    assert set(found["versions"]) == {"kubelet", "kube-proxy"}
    assert found["versions"]["kube-proxy"] == ""
    assert found["uses"] == {}


BUSY = """
import os, sys
held = b"x" * (50 << 20)
while sum(os.times()[:2]) < 0.5: pass
print(flush=True)
sys.stdin.read()
"""


def test_what_services_use_is_that_of_their_processes(run: Run) -> None:
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    with subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as busy:
        assert busy.stdin and busy.stdout
        busy.stdout.readline()
        answers = main_pids({"etcd": 0, "crio": busy.pid, "kubelet": 4194305})
        found = run("running", "--", "etcd", "crio", "kubelet", systemctl=answers)
        most = time.clock_gettime(time.CLOCK_BOOTTIME) - began
        busy.stdin.close()
    assert (found["versions"], list(found["uses"])) == ({}, ["crio"])
    use = parse(json.dumps(found), Running, "running", "here").uses["crio"]
    assert 50 << 10 < use.anonymous < use.memory < 100 << 10
    assert 50 <= use.processor <= 100 * most
    assert use.processor <= use.age <= 100 * most + 2


WRONG = {"memory": -1, "anonymous": 0, "processor": 1, "age": 1}


@pytest.mark.parametrize("wrong", [{"crio": WRONG}, {"crio": {"memory": 1}}, []])
def test_other_shapes_of_what_services_use_are_refused(wrong: object) -> None:
    text = json.dumps({"kernel": "6", "versions": {}, "uses": wrong})
    with pytest.raises(SmallkubeError, match="here: unexpected output from running"):
        parse(text, Running, "running", "here")


@pytest.mark.parametrize("version", etcd.VERSIONS)
def test_stored_values_are_counted_by_their_key(
    version: str, run: Run, short_tmp: Path, needs: Callable[[str, object, str], None]
) -> None:
    folder = etcd.programs(version)
    needs("integration", folder, f"etcd {version}")
    assert folder
    with etcd.Etcd(short_tmp, folder).running() as server:
        values = {f"/registry/secrets/d/{number:04}": etcd.SECRET + os.urandom(90) for number in range(1201)}
        clear = {"/registry/secrets/d/clear": b'k8s\x00"Value" : \n\x00', "/registry/secrets/d/clear2": b""}
        custom = {"/registry/example.org/things/a": b"k8s:enc:secretbox:v1:key2:\xff"}
        server.put({**values, **clear, **custom, "/registry/secretsother/x": b"another resource"})
        programs = {"etcdctl": f'exec {folder}/etcdctl "$@"'}
        assert run("stored", server.endpoint, "secrets", "example.org/things", **programs) == {
            "key1": 1201, "key2": 1, "clear": 2,
        }  # fmt: skip
        assert run("stored", server.endpoint, "nothing", **programs) == {}
