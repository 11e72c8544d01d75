"""Proves that a deploy may be interrupted or killed: the machine ends on one system or the other, and the same command
again completes it. At which steps is a matter of tests/unit/test_activation.py.
"""

import signal
import time

import pytest

from tests.lab.operating import Operator, await_

SLOW = 'system.activationScripts.slow.text = "touch /run/slow; while [ -e /run/slow ]; do sleep 0.1; done";'

REBUILD = "/usr/local/bin/nixos-rebuild"


@pytest.fixture(autouse=True)
def nothing_slow(deployed: Operator) -> None:
    """What an activation that was cut short in an earlier test left behind."""
    deployed.say("node2", "rm", "-f", "/run/slow", "/run/building")


def test_ctrl_c_during_the_activation_rolls_back(deployed: Operator) -> None:
    deployed.deploy()
    before = deployed.runs("node2")
    with deployed.extra("node2", SLOW):
        process = deployed.start("deploy", "--json")
        await_("the activation", lambda: deployed.say("node2", "sh", "-c", "ls /run/slow 2>/dev/null; true"))
        process.send_signal(signal.SIGINT)
        reports = deployed.reports(deployed.end(process), 1)
    assert (reports["node2"]["outcome"], reports["node2"]["reason"]) == ("rolled back", "interrupted")
    assert reports["node1"]["outcome"] == "unchanged"
    assert deployed.runs("node2") == deployed.boots("node2") == before
    assert deployed.leftovers("node2") == ""


def test_killed_during_the_activation_the_next_deploy_settles_it(deployed: Operator) -> None:
    deployed.deploy()
    before = deployed.runs("node2")
    with deployed.extra("node2", SLOW):
        process = deployed.start("deploy", "--json", "--node", "node2")
        await_("the activation", lambda: deployed.say("node2", "sh", "-c", "ls /run/slow 2>/dev/null; true"))
        process.kill()
        deployed.end(process)
    assert "smallkube-rollback" in deployed.leftovers("node2")
    done = deployed.inv("deploy", "--node", "node2")
    assert done.returncode == 0, done.stderr
    assert "node2: run the rollback of an interrupted deploy" in done.stderr
    assert deployed.runs("node2") == deployed.boots("node2") == before
    assert deployed.leftovers("node2") == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
def test_an_abandoned_build_ends(deployed: Operator, number: signal.Signals) -> None:
    deployed.deploy()
    node2 = deployed.lab.machine("node2")
    wrapper = "#!/bin/sh\ntouch /run/building\nexec sleep 3600\n"
    node2.check("sh", "-c", f"mv {REBUILD} {REBUILD}.real; cat >{REBUILD}; chmod 755 {REBUILD}", stdin=wrapper)
    try:
        with deployed.marked("node2", "another bundle"):
            process = deployed.start("deploy", "--json", "--node", "node2")
            await_("the build", lambda: deployed.say("node2", "sh", "-c", "ls /run/building 2>/dev/null; true"))
            process.send_signal(number)
            cut = deployed.end(process)
        await_("its end", lambda: not deployed.say("node2", "sh", "-c", "pgrep -f '[s]leep 3600' || true"))
    finally:
        node2.check("sh", "-c", f"mv {REBUILD}.real {REBUILD}; rm -f /run/building")
    if number is signal.SIGINT:
        assert "interrupted while build ran" in deployed.reports(cut, 1)["node2"]["reason"]
    assert deployed.outcomes("--node", "node2") == {"node2": "unchanged"}


def test_ctrl_c_twice_ends_at_once(deployed: Operator) -> None:
    deployed.deploy()
    with deployed.extra("node2", SLOW):
        process = deployed.start("deploy", "--node", "node2", "--confirm-timeout", "20")
        await_("the activation", lambda: deployed.say("node2", "sh", "-c", "ls /run/slow 2>/dev/null; true"))
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)  # two signals that come together are one
        process.send_signal(signal.SIGINT)
        done = deployed.end(process, seconds=60)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
    deployed.deploy()
