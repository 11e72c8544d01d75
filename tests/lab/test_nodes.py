"""Proves `inv nodes.exec`, `nodes.drain`, `nodes.uncordon` and `nodes.reboot` on real machines. There is no API server
here: kubectl and the API server's unit are stand-ins that record what they are asked.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.places import Places
from smallkube.core.workspace import REPOSITORY
from tests.lab.conftest import Up, made

Completed = subprocess.CompletedProcess[str]

KUBECTL = """\
#!/bin/sh
# Knows the node that it runs on, and of it whether it is cordoned and annotated.
state=/var/lib/kubectl
mkdir -p "$state"
[ "$1" = --kubeconfig=/run/kubeconfig-root ] || exit 9
shift
echo "$*" >>"$state/asked"
for word; do
  case $word in
  drain) touch "$state/cordoned" ;;
  uncordon) rm -f "$state/cordoned" ;;
  get)
    systemctl --quiet is-active kube-apiserver || exit 1
    cordoned=false
    if [ -e "$state/cordoned" ]; then cordoned=true; fi
    boot=$(cat /proc/sys/kernel/random/boot_id)
    echo '{"metadata": {}, "spec": {"unschedulable": '$cordoned'}, "status": {"nodeInfo": {"bootID": "'$boot'"},'
    echo '"conditions": [{"type": "Ready", "status": "True"}]}}'
    ;;
  esac
done
"""
API_UNIT = """\
[Service]
ExecStart=sleep infinity
[Install]
WantedBy=multi-user.target
"""


def inv(workspace: Path, *words: str) -> Completed:
    return subprocess.run(
        [sys.executable, "-m", "invoke", "--search-root", str(REPOSITORY), *words],
        env={**os.environ, "SMALLKUBE_WORKSPACE": str(workspace)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        cwd="/",
    )


@pytest.fixture(scope="module")
def up(places: Places) -> Iterator[Up]:
    with made(places, "nodes", 2) as lab:
        scanned = inv(lab.workspace, "keys.scan", "--yes")
        assert scanned.returncode == 0, scanned.stderr
        yield lab


@pytest.fixture
def api(up: Up) -> Iterator[Up]:
    """The stand-ins on node1."""
    node1 = up.lab.machine("node1")
    node1.check("sh", "-c", "cat >/usr/local/bin/kubectl; chmod 755 /usr/local/bin/kubectl", stdin=KUBECTL)
    node1.check("sh", "-c", "cat >/etc/systemd/system/kube-apiserver.service", stdin=API_UNIT)
    node1.check("systemctl", "enable", "--quiet", "--now", "kube-apiserver")
    yield up
    node1.check("systemctl", "disable", "--quiet", "--now", "kube-apiserver")
    node1.check("rm", "-r", "/etc/systemd/system/kube-apiserver.service", "/usr/local/bin/kubectl", "/var/lib/kubectl")
    node1.check("systemctl", "daemon-reload")


def boot_id(up: Up, node: str) -> str:
    return up.lab.machine(node).check("cat", "/proc/sys/kernel/random/boot_id").strip()


def test_many_nodes_answer_line_by_line(up: Up) -> None:
    ran = inv(up.workspace, "nodes.exec", "--", "sh", "-c", "hostname; echo 'a  b' >&2")
    assert ran.returncode == 0
    assert ran.stdout == "node1: node1\nnode2: node2\n"
    assert ran.stderr == "node1: a  b\nnode2: a  b\n"


def test_one_node_answers_as_it_is_and_words_arrive_whole(up: Up) -> None:
    words = ["a  b", "$HOME", "; exit 3", "'", "--json", ""]
    ran = inv(up.workspace, "nodes.exec", "--node", "node2", "--", "printf", "%s\\n", *words)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "".join(f"{word}\n" for word in words), "")


def test_one_failing_node_fails_it_and_is_named(up: Up) -> None:
    ran = inv(up.workspace, "nodes.exec", "--json", "--", "sh", "-c", '[ "$(hostname)" = node1 ] || exit 7')
    assert ran.returncode == 1
    assert ran.stderr == "node2: exit status 7 (log: .smallkube/log)\n"
    assert [(row["node"], row["outcome"], row["status"]) for row in json.loads(ran.stdout)] == [
        ("node1", "ok", 0),
        ("node2", "failed", 7),
    ]


def test_a_silent_command_is_given_up(up: Up) -> None:
    ran = inv(up.workspace, "nodes.exec", "--node", "node1", "--timeout", "1", "--", "sleep", "30")
    assert ran.returncode == 1
    assert "no activity for 1 s" in ran.stderr


def test_root_or_the_user_who_logs_in(up: Up, tmp_path: Path) -> None:
    other = tmp_path / "workspace"
    shutil.copytree(up.workspace, other)
    inventory = other / "inventory.yaml"
    inventory.write_text(inventory.read_text().replace("ssh: {", "ssh: {user: admin, become: sudo, "))
    assert inv(other, "nodes.exec", "--", "id", "-u").stdout == "node1: 0\nnode2: 0\n"
    assert inv(other, "nodes.exec", "--no-root", "--", "id", "-un").stdout == "node1: admin\nnode2: admin\n"


def test_a_command_is_needed(up: Up) -> None:
    ran = inv(up.workspace, "nodes.exec")
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)


def test_reboot_takes_workers_first_and_asks_for_confirmation(up: Up) -> None:
    before = [boot_id(up, node) for node in ("node1", "node2")]
    refused = inv(up.workspace, "nodes.reboot")
    assert refused.returncode == 2
    assert "pass --yes" in refused.stderr
    planned = inv(up.workspace, "nodes.reboot", "--dry-run")
    assert planned.stdout == "one after the other: node2, node1\n"
    assert "kube-apiserver.service on node1 is inactive: nothing is drained" in planned.stderr
    assert [boot_id(up, node) for node in ("node1", "node2")] == before
    ran = inv(up.workspace, "nodes.reboot", "--yes", "--json", "--timeout", "120")
    assert ran.returncode == 0, ran.stderr
    assert [(row["node"], row["outcome"]) for row in json.loads(ran.stdout)] == [
        ("node2", "rebooted"),
        ("node1", "rebooted"),
    ]
    assert "Traceback" not in ran.stderr
    after = [boot_id(up, node) for node in ("node1", "node2")]
    assert not set(before) & set(after)


def test_a_machine_that_stays_away_ends_the_reboot(up: Up) -> None:
    node2 = up.lab.machine("node2")
    node2.check("ln", "-s", "/dev/null", "/etc/systemd/system/ssh.service")
    try:
        ran = inv(up.workspace, "nodes.reboot", "--yes", "--json", "--timeout", "10")
        assert ran.returncode == 1
        assert [(row["node"], row["outcome"]) for row in json.loads(ran.stdout)] == [
            ("node2", "unknown"),
            ("node1", "not run"),
        ]
    finally:
        node2.check("rm", "/etc/systemd/system/ssh.service")
        node2.check("systemctl", "daemon-reload")
        node2.check("systemctl", "start", "ssh")


def test_a_unit_that_fails_after_the_restart_is_reported(up: Up) -> None:
    node2 = up.lab.machine("node2")
    unit = "[Service]\nType=oneshot\nExecStart=false\n[Install]\nWantedBy=multi-user.target\n"
    node2.check("sh", "-c", "cat >/etc/systemd/system/brittle.service", stdin=unit)
    node2.check("systemctl", "enable", "--quiet", "brittle")
    try:
        ran = inv(up.workspace, "nodes.reboot", "--yes", "--node", "node2", "--timeout", "120")
        assert ran.returncode == 1
        assert "it is back, but these units failed: brittle.service" in ran.stdout
    finally:
        node2.check("systemctl", "disable", "--quiet", "brittle")
        node2.check("rm", "/etc/systemd/system/brittle.service")
        node2.check("systemctl", "reset-failed", "brittle")
        node2.check("systemctl", "daemon-reload")


def test_drain_and_uncordon_need_names_and_the_api_server(up: Up) -> None:
    assert inv(up.workspace, "nodes.drain", "--yes").returncode == 2
    ran = inv(up.workspace, "nodes.drain", "--yes", "--node", "node2")
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert "kube-apiserver.service on node1 is inactive" in ran.stderr


def test_a_member_is_drained_restarted_and_admitted_again(api: Up) -> None:
    host = "node1.k8s.internal"
    before = boot_id(api, "node1")
    ran = inv(api.workspace, "nodes.reboot", "--yes", "--node", "node1", "--timeout", "120")
    assert ran.returncode == 0, ran.stderr
    assert boot_id(api, "node1") != before
    asked = api.lab.machine("node1").check("cat", "/var/lib/kubectl/asked").splitlines()
    changes = [line.replace("--request-timeout=30s ", "") for line in asked if " get " not in f" {line}"]
    assert changes == [
        f"annotate node {host} smallkube/drained-for=reboot --overwrite",
        f"drain {host} --ignore-daemonsets --delete-emptydir-data --timeout=300s",
        f"uncordon {host}",
        f"annotate node {host} smallkube/drained-for-",
    ]


def test_drain_and_uncordon_ask_the_primary(api: Up) -> None:
    for task, words in (("drain", ["--yes", "--timeout", "60"]), ("uncordon", [])):
        ran = inv(api.workspace, f"nodes.{task}", "--node", "node2", *words)
        assert ran.returncode == 0, ran.stderr
    asked = api.lab.machine("node1").check("cat", "/var/lib/kubectl/asked")
    assert "drain node2.k8s.internal --ignore-daemonsets --delete-emptydir-data --timeout=60s\n" in asked
    assert "uncordon node2.k8s.internal\n" in asked
