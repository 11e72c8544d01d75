"""Proves a run of the conformance tests with a program that prints what upstream's does: recorded, ended by Ctrl-C,
resumed.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smallkube.core.workspace import REPOSITORY
from tests.lab.operating import await_

AUTH, CLI, TAINTS = (
    "[sig-auth] Tokens should be mounted [Conformance]",
    "[sig-cli] Kubectl should wait [Conformance]",
    "[sig-node] Taints removing one cancels eviction [Disruptive] [Conformance]",
)
PROGRAM = f"""#!{sys.executable}
import re, signal, sys, time

NAMES = {[AUTH, CLI, TAINTS]!r}
if "--version" in sys.argv:
    print("v1.34.2")
    sys.exit()
if "--list-conformance-tests" in sys.argv:
    for name in NAMES:
        print(f"- codename: '{{name}}'")
    sys.exit()
flags = [word.split("focus=", 1)[1] for word in sys.argv if word.startswith("--ginkgo.focus=")]
assert "--dns-domain=k8s.internal" in sys.argv and "--non-blocking-taints=a/b" in sys.argv
for name in NAMES:
    if not any(re.search(flag, "Kubernetes e2e suite " + name) for flag in flags):
        continue
    print("-" * 30 + "\\n" + name, flush=True)
    try:
        if "wait" in name and not HERE.with_name("go").exists():
            time.sleep(600)
    except KeyboardInterrupt:
        print("• [INTERRUPTED] [1.000 seconds]\\n" + "-" * 30)
        sys.exit(1)
    if "Taints" in name:
        print("• [FAILED] [1.000 seconds]\\n" + name + "\\n  [FAILED] evicted\\n" + "-" * 30, flush=True)
    else:
        print("• [1.000 seconds]\\n" + "-" * 30, flush=True)
""".replace("HERE", "__import__('pathlib').Path(__file__)")
KUBECTL = """#!/bin/sh
case "$*" in
  *version*) echo '{"serverVersion": {"gitVersion": "v1.34.2"}}' ;;
  *) echo '{"items": [{"spec": {"taints": [{"key": "a/b", "effect": "NoSchedule"}, {"key": "c,d"}]},
     "status": {"nodeInfo": {"containerRuntimeVersion": "cri-o://1.34.0"}}}]}' ;;
esac
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The task, with the program of above, in a workspace of its own."""
    for name, text in (("e2e.test", PROGRAM), ("kubectl", KUBECTL), ("kubeconfig", "{}")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace/inventory.yaml").write_text((REPOSITORY / "inventory.yaml").read_text())
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(tmp_path / "workspace"))
    program, kubeconfig, kubectl = (f"{tmp_path}/{name}" for name in ("e2e.test", "kubeconfig", "kubectl"))
    return [sys.executable, "-m", "invoke", "cluster.conformance", "--json", "--program", program,
            "--kubeconfig", kubeconfig, "--kubectl", kubectl]  # fmt: skip


def run(argv: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def states(printed: str) -> dict[str, str]:
    value: dict[str, Any] = json.loads(printed)
    return {entry["name"]: entry["state"] for entry in value["results"]}


def test_all_tests_run_and_failures_are_named(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    status, printed, said = run(command)
    assert (status, states(printed)) == (1, {AUTH: "passed", CLI: "passed", TAINTS: "failed"})
    assert "2 of 3 passed, 1 failed; JUnit XML:" in said and f"not passed: {TAINTS}" in said
    folder = tmp_path / "workspace/.smallkube/conformance"
    assert f"failed: {TAINTS}\n  evicted\n  {folder}/logs/003.log" in said
    assert "[FAILED] evicted" in (folder / "logs/003.log").read_text()
    assert run([*command, "--focus", "sig-auth"])[0] == 0


def test_an_interrupted_run_keeps_results_and_resumes(command: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "workspace/.smallkube/conformance"
    results = folder / "results.jsonl"
    # A shell without job control has background processes ignore the signal.
    argv = ["env", "--default-signal=INT", *command]
    started = subprocess.Popen(argv, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    await_("the second test", lambda: results.exists() and CLI in (folder / "output.log").read_text())
    os.kill(started.pid, signal.SIGINT)
    said = started.communicate(timeout=60)[1]
    assert started.returncode == 130 and "1 tests have a result; --resume runs the others" in said
    assert len(results.read_text().splitlines()) == 1 and (folder / "junit.xml").exists()
    (tmp_path / "go").touch()
    status, printed, said = run([*command, "--resume", "--focus", "sig-(auth|cli)"])
    assert (status, states(printed)) == (0, {AUTH: "passed", CLI: "passed"})
    assert "1 tests have a result already" in said


@pytest.mark.parametrize(
    ("name", "text"), [("e2e.test", "#!/bin/sh\nexit 1\n"), ("kubectl", "#!/bin/sh\necho no >&2; exit 1\n")]
)
def test_a_program_that_fails_is_one_line(command: list[str], tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    status, printed, said = run(command)
    assert (status, printed, said.count("\n")) == (2 if name == "e2e.test" else 1, "", 1)
    assert not (tmp_path / "workspace/.smallkube/conformance").exists()


def test_tests_that_can_not_begin_end_the_run(command: list[str], tmp_path: Path) -> None:
    begin = (
        'print("-" * 30 + "\\n[SynchronizedBeforeSuite] [FAILED] [1.000 seconds]\\n  [FAILED] no nodes\\n" + "-" * 30)'
    )
    (tmp_path / "e2e.test").write_text(
        PROGRAM.replace("for name in NAMES:\n    if not", f"{begin}\nsys.exit(1)\nfor name in NAMES:\n    if not")
    )
    status, _, said = run(command)
    assert status == 1 and "no test ran: no nodes" in said
