"""Proves how a deploy ends when the new system, the machine or somebody else spoils it: back on the old system within
the time that was set, and told as it is.
"""

import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import Workspace
from tests.lab.operating import Operator, await_

SECONDS = 25
TIMEOUT = ("--confirm-timeout", str(SECONDS))
BROKEN_UNIT = """
systemd.services.broken = {
  wantedBy = [ "multi-user.target" ];
  serviceConfig = { Type = "oneshot"; ExecStart = "/bin/false"; };
};
"""
NO_SSH = """
networking.nftables.tables.cut = {
  family = "inet";
  content = ''
    chain input {
      type filter hook input priority -10; policy accept;
      tcp dport 22 drop
    }
  '';
};
"""
RESTART_SSH = "systemctl reset-failed ssh; systemctl restart ssh"
HANGS = 'system.activationScripts.hang.text = "sleep 3600";'
SLOW = 'system.activationScripts.slow.text = "touch /run/slow; while [ -e /run/slow ]; do sleep 0.1; done";'


@pytest.fixture
def machine(deployed: Operator) -> Iterator[Operator]:
    """Both machines as the workspace has them, and node2 unchanged by the test, without anything left over."""
    deployed.deploy()
    before = deployed.runs("node2"), deployed.boots("node2")
    yield deployed
    assert (deployed.runs("node2"), deployed.boots("node2")) == before
    assert deployed.mark("node2") == ""
    assert deployed.leftovers("node2") == ""


def rolled_back(operator: Operator, nix: str) -> dict[str, Any]:
    with operator.extra("node2", f'environment.etc."mark".text = "bad";{nix}'):
        report = operator.deploy("--node", "node2", *TIMEOUT, status=1)["node2"]
    assert report["outcome"] == "rolled back"
    entry = json.loads(operator.done("deploy.history", "--json", "--node", "node2"))["node2"][-1]
    assert (entry["outcome"], entry["reason"]) == ("rolled back", report["reason"])
    return report


def test_a_failing_build_stops_there(machine: Operator) -> None:
    with machine.extra("node2", "this is no Nix"):
        done = machine.inv("deploy", "--node", "node2")
    assert done.returncode == 1
    assert re.search(r"^node2 +failed .*the build failed: .*the whole log is in .smallkube/logs/", done.stdout, re.M)
    assert "syntax error" in done.stderr
    assert done.stderr.splitlines()[-1] == "not everything was deployed: node2 failed (log: .smallkube/log)"


def test_a_failing_primary_leaves_the_workers_untouched(machine: Operator) -> None:
    with machine.extra("node1", "this is no Nix"), machine.marked("node2", "not reached"):
        reports = machine.deploy(status=1)
    assert [report["outcome"] for report in reports.values()] == ["failed", "not run"]
    assert reports["node2"]["reason"] == "an earlier node failed"


def test_a_unit_that_fails_is_rolled_back_at_once(machine: Operator) -> None:
    report = rolled_back(machine, BROKEN_UNIT)
    assert "failed units: broken.service" in report["reason"]


def test_a_firewall_that_drops_ssh_is_rolled_back_in_time(machine: Operator) -> None:
    report = rolled_back(machine, NO_SSH)
    # The latter where the machine is so busy that the rules are there before the end of the activation was told.
    assert re.search("no new connection to it|the activation did not end in time", report["reason"])
    assert machine.inv("deploy", "--node", "node2").returncode == 0


def test_an_activation_that_hangs_is_rolled_back(machine: Operator) -> None:
    assert "the activation did not end in time" in rolled_back(machine, HANGS)["reason"]


def test_a_power_cut_before_the_commit_rolls_back(machine: Operator) -> None:
    with machine.extra("node2", SLOW):
        deploying = machine.start("deploy", "--json", "--node", "node2", "--confirm-timeout", "60")
        await_("the activation", lambda: machine.say("node2", "sh", "-c", "ls /run/slow 2>/dev/null; true"))
        machine.restart("node2")
        report = machine.reports(machine.end(deploying), 1)["node2"]
    assert report["outcome"] == "rolled back", report
    assert "the machine was restarted before it was confirmed" in report["reason"]


def test_a_machine_that_stays_away_is_unknown_with_what_is_armed(machine: Operator) -> None:
    node2 = machine.lab.machine("node2")
    with machine.extra("node2", SLOW):
        deploying = machine.start("deploy", "--json", "--node", "node2", "--confirm-timeout", "10")
        await_("the activation", lambda: machine.say("node2", "sh", "-c", "ls /run/slow 2>/dev/null; true"))
        node2.kill()
        report = machine.reports(machine.end(deploying), 1)["node2"]
    node2.start(machine.lab.start_layers())
    assert report["outcome"] == "unknown"
    assert re.search(r"its rollback to /nix/store/\S+ was armed and was due \d+ s ago", report["reason"])


def test_a_machine_that_is_off_is_named(machine: Operator) -> None:
    machine.lab.machine("node2").stop()
    try:
        report = machine.deploy("--node", "node2", status=1)["node2"]
    finally:
        machine.lab.machine("node2").start(machine.lab.start_layers())
    assert (report["outcome"], "can't be reached" in report["reason"]) == ("failed", True)


def test_nothing_is_sent_to_a_machine_with_another_host_key(machine: Operator) -> None:
    """Somebody else answers at its address; the workspace is right."""
    node2, key = machine.lab.machine("node2"), "/etc/ssh/ssh_host_ed25519_key"
    node2.check("sh", "-c", f"cp -a {key} /root/key; ssh-keygen -q -t ed25519 -N '' -f /root/other </dev/null")
    node2.check("sh", "-c", f"cp /root/other {key}; {RESTART_SSH}")
    accepted = node2.check("sh", "-c", "journalctl -u ssh | grep -c Accepted")
    try:
        report = machine.deploy("--node", "node2", status=1)["node2"]
    finally:
        node2.check("sh", "-c", f"mv /root/key {key}; rm /root/other*; {RESTART_SSH}")
    assert re.search(r"host key differs: offered SHA256:\S+, expected SHA256:\S+", report["reason"])
    assert "nothing was sent" in report["reason"]
    assert node2.check("sh", "-c", "journalctl -u ssh | grep -c Accepted") == accepted


def test_a_new_host_key_without_rekey_stops_before_anything(machine: Operator) -> None:
    """The machine was reinstalled and scanned again, but its secrets are still encrypted to the old key."""
    node2, key = machine.lab.machine("node2"), "/etc/ssh/ssh_host_ed25519_key"
    node2.check("sh", "-c", f"cp -a {key} /root/key; cp -a {key}.pub /root/key.pub; rm {key} {key}.pub")
    node2.check("sh", "-c", f"ssh-keygen -q -t ed25519 -N '' -f {key} </dev/null; {RESTART_SSH}")
    saved = shutil.copytree(machine.workspace.keys_dir, machine.root / "keys.saved")
    try:
        machine.done("keys.scan", "--node", "node2", "--replace", "--yes")
        accepted = node2.check("sh", "-c", "journalctl -u ssh | grep -c Accepted")
        done = machine.inv("deploy", "--node", "node2")
        assert done.returncode == 2
        assert {line.rpartition("; ")[2] for line in done.stderr.splitlines()} == {"run `inv keys.rekey`"}
        assert node2.check("sh", "-c", "journalctl -u ssh | grep -c Accepted") == accepted
    finally:
        node2.check("sh", "-c", f"mv /root/key {key}; mv /root/key.pub {key}.pub; {RESTART_SSH}")
        shutil.rmtree(machine.workspace.keys_dir)
        saved.rename(machine.workspace.keys_dir)


def test_a_machine_with_another_host_key_is_not_deployed_to(machine: Operator) -> None:
    """sshd has the expected key, but what agenix would decrypt with is not it."""
    node2, key = machine.lab.machine("node2"), "/etc/ssh/ssh_host_ed25519_key"
    node2.check("sh", "-c", f"cp -a {key} /root/key; echo HostKey /root/key >/etc/ssh/sshd_config.d/moved.conf")
    node2.check("sh", "-c", f"{RESTART_SSH}; rm {key}; ssh-keygen -q -t ed25519 -N '' -f {key} </dev/null")
    try:
        report = machine.deploy("--node", "node2", status=1)["node2"]
    finally:
        node2.check("sh", "-c", f"mv /root/key {key}; rm /etc/ssh/sshd_config.d/moved.conf")
        node2.check("sh", "-c", f"ssh-keygen -y -f {key} >{key}.pub; {RESTART_SSH}")
    assert "is not the key that the secrets are encrypted to" in report["reason"]


def other_workspace(operator: Operator, folder: Path) -> Operator:
    """A second operator's clone of the same workspace."""
    return Operator(operator.lab, Workspace(shutil.copytree(operator.root, folder / "clone")).root)


def test_two_operators_at_once(machine: Operator, tmp_path: Path) -> None:
    other = other_workspace(machine, tmp_path)
    with machine.extra("node2", SLOW):
        first = machine.start("deploy", "--json", "--node", "node2", "--goal", "test")
        await_("the activation", lambda: machine.say("node2", "sh", "-c", "ls /run/slow 2>/dev/null; true"))
    locked = other.deploy("--node", "node2", status=1)["node2"]
    here = machine.deploy("--node", "node2", status=1)["node2"]
    machine.say("node2", "rm", "/run/slow")
    assert machine.reports(machine.end(first))["node2"]["outcome"] == "tested"
    assert re.search(r"locked by root@\S+ since \d\d:\d\d:\d\d UTC", locked["reason"])
    assert here["reason"].startswith(f"deploying to node2: already being done by process {first.pid}")
    machine.deploy("--node", "node2")


def test_two_deploys_that_start_together(machine: Operator, tmp_path: Path) -> None:
    operators = (machine, other_workspace(machine, tmp_path))
    gate = threading.Barrier(len(operators))
    outcomes: list[str] = []

    def deploy(operator: Operator) -> None:
        gate.wait()
        done = operator.inv("deploy", "--json", "--node", "node2", "--goal", "build")
        outcomes.append(json.loads(done.stdout)[0]["outcome"])

    threads = [threading.Thread(target=deploy, args=(operator,)) for operator in operators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "unchanged" in outcomes
    assert set(outcomes) <= {"unchanged", "failed"}


def test_a_full_disk_on_the_machine_is_reported(machine: Operator) -> None:
    node2, folder = machine.lab.machine("node2"), "/var/lib/smallkube/bundles"
    node2.check("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder)
    try:
        report = machine.deploy("--node", "node2", status=1)["node2"]
    finally:
        node2.check("umount", folder)
    assert "No space left on device" in report["reason"] or "what arrived" in report["reason"]
    with pytest.raises(SmallkubeError):
        node2.check("test", "-e", f"{folder}/.new.*")
