"""Verifies the steps of a deploy on one node, with a fake machine: which commands run, and what the report claims."""

import json
import re
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pytest

from smallkube.core.errors import SmallkubeError
from smallkube.core.files import lock
from smallkube.core.workspace import Workspace
from smallkube.deploy import machine_lock, plan
from smallkube.deploy import node as deploying
from smallkube.deploy.history import Entry
from smallkube.deploy.plan import Goal, Options, Report
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.nix.bundle import Bundle
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.fleet import NodeOutcome
from smallkube.remote.host import Command, Result
from smallkube.remote.pool import Pool
from tests.unit.world import Silent

OLD, NEW = "/nix/store/old", "/nix/store/new"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFjg0kLwIy6BBWg6t5Jn9BA4BzzA3oDQfUWr4FZiaNxV root@node2"
PREPARE = ["lock", "receive", "receive", "build", "difference"]
ACTIVATE = ["health checks", "node Ready", "switch-to-configuration", "arm", "activate", "progress"]
CONFIRM = ["progress", "progress", "health checks", "node Ready", "confirm"]
END = ["is it marked", "unlock"]
"""Whether the primary can say that an interrupted deploy has left the node cordoned."""


@dataclass
class Machine:
    """Runs OLD, builds NEW. ``answers``: command → its result; ``fails_once``: commands whose answer is lost."""

    runs: str = OLD
    boots: str = OLD
    armed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    decision: str = ""
    history: list[str] = field(default_factory=list)
    answers: dict[str, Result] = field(default_factory=dict)
    fails_once: set[str] = field(default_factory=set)
    on: Callable[[str], object] = lambda _: None
    stop: threading.Event = field(default_factory=threading.Event)
    ran: list[str] = field(default_factory=list)

    @property
    def did(self) -> list[str]:
        """The commands in order; before an activation, the two that are asked at the same time in that of the table."""
        both = ["node Ready", "health checks"]
        at = next((at for at in range(len(self.ran)) if self.ran[at : at + 2] == both), None)
        return self.ran if at is None else [*self.ran[:at], *both[::-1], *self.ran[at + 2 :]]

    def answer(self, command: Command) -> Result:
        self.ran.append(command.name)
        self.on(command.name)
        answer = self.answers.get(command.name) or self._act(command)
        if command.name in self.fails_once:
            self.fails_once.discard(command.name)
            raise SmallkubeError("connection lost")
        return answer

    def _act(self, command: Command) -> Result:
        match command.name:
            case "facts" | "lock":
                facts = {"has_bundle": False, "has_scripts": False, "host_key": KEY, "clock": 1_000}
                sizes = {"store_free": 1 << 30, "state_free": 1 << 30, "generation": "7"}
                found = {"failed": [], "armed": self.armed, "history": self.history}
                systems = {"system": self.runs, "profile": self.boots}
                generations = {"current": "7", "systems": {"6": "/nix/store/older", "7": OLD}}
                return reply(json.dumps(facts | sizes | found | systems | generations))
            case "build":
                return reply(f"{NEW}\n", stderr="building\n")
            case "health checks" | "node Ready":
                return reply('{"checks": [{"subject": "", "check": "node Ready", "result": "ok", "detail": ""}]}')
            case "switch-to-configuration":
                return reply("would restart the following units: sshd.service")
            case "activate":
                self.runs = command.argv[-1]
            case "progress":
                ended = {"begun": True, "status": 0, "outcome": self.decision, "rollback_status": None}
                if self.decision == "rolled back":
                    ended["rollback_status"], self.runs = 0, OLD
                return reply(json.dumps({**ended, "system": self.runs, "failed": self.failed, "log": "log"}))
            case "confirm":
                self.decision = "confirmed"
            case "trigger-rollback":
                self.decision = "rolled back"
            case "commit":
                return reply("8\n")
            case "cat":
                return reply("\n".join(self.history))
            case "record":
                self.history.append((command.stdin or b"").decode().strip())
        return reply()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr("time.time", lambda: 1_000.0)
    return made


@pytest.fixture
def deploy(machine: Machine, workspace: Workspace) -> Callable[..., Report]:
    workspace.hosts_keys_dir.mkdir(parents=True)
    (workspace.hosts_keys_dir / "node2.pub").write_text(KEY)
    cluster = Cluster(workspace, load(workspace.inventory_file))
    node = cluster.inventory.node("node2")

    def run(goal: Goal = Goal.SWITCH, *, generation: str | None = None, **more: Any) -> Report:
        made = replace(plan.make([node], Bundle({}), goal), **more)
        if generation is not None:
            made = plan.rollback([node], generation, Options())
        pool = Pool(lambda node: FakeHost(node, machine.answer))
        context = deploying.DeployContext(made, cluster, Silent(), pool)
        context.stop = machine.stop
        with lock(workspace.state_dir / "locks" / node.name, "deploying"):
            return deploying.NodeDeploy(context, node).execute()

    return run


def test_a_switch_runs_its_commands_in_order(deploy: Callable[..., Report], machine: Machine) -> None:
    report = deploy()
    assert (report.outcome, report.system, report.generation) == (NodeOutcome.DEPLOYED, NEW, "8")
    assert machine.did == [*PREPARE, *ACTIVATE, *CONFIRM, "commit", "record", *END]
    assert Entry(**json.loads(machine.history[-1])).outcome == "deployed"


def test_an_unchanged_node_gets_the_id_of_newer_keys(deploy: Callable[..., Report], machine: Machine) -> None:
    machine.answers["build"] = reply(OLD)
    for keys in ("", "first", "first", "second"):
        assert deploy(keys=keys).outcome is NodeOutcome.UNCHANGED
    assert [Entry(**json.loads(line)).keys for line in machine.history] == ["", "first", "second"]


@pytest.mark.parametrize("during", ["build", "switch-to-configuration", "activate", "confirm", "commit"])
def test_the_lock_is_refreshed_whatever_takes_long(
    deploy: Callable[..., Report], machine: Machine, during: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_lock, "REFRESH_SECONDS", 0.001)
    refreshed = threading.Event()

    def on(name: str) -> None:
        if name == "refresh the lock":
            refreshed.set()
        elif name == during:
            refreshed.clear()
            assert refreshed.wait(10)

    machine.on = on
    assert deploy().outcome is NodeOutcome.DEPLOYED


@pytest.mark.parametrize(
    ("change", "boots", "builds"),
    [
        ({}, OLD, False),
        ({"digest": "0" * 64}, OLD, True),
        ({"system": NEW}, OLD, True),
        ({"outcome": "rolled back"}, OLD, True),
        ({}, NEW, True),
    ],
)
def test_what_runs_of_the_same_bundle_is_not_built(
    change: dict[str, str], boots: str, builds: bool, deploy: Callable[..., Report], machine: Machine
) -> None:
    entry = Entry("2026-01-01T00:00:00+00:00", "me", "switch", Bundle({}).digest, OLD, "7", "deployed", "")
    machine.history, machine.boots = [json.dumps(asdict(replace(entry, **change)))], boots
    machine.answers["build"] = reply(OLD)
    report = deploy()
    assert ("build" in machine.did) == builds
    assert (report.outcome is NodeOutcome.UNCHANGED, report.system) == (boots == OLD, OLD)


def test_the_same_system_is_unchanged(deploy: Callable[..., Report], machine: Machine) -> None:
    machine.runs = machine.boots = NEW
    report = deploy()
    assert (report.outcome, report.generation) == (NodeOutcome.UNCHANGED, "7")
    assert machine.did == [*PREPARE[:-1], "record", *END]
    deploy()
    assert machine.did[len(PREPARE) + 2 :] == [*PREPARE[:-2], *END]


@pytest.mark.parametrize(
    ("goal", "outcome", "commands"),
    [
        (Goal.BUILD, NodeOutcome.BUILT, []),
        (Goal.DRY_ACTIVATE, NodeOutcome.CHECKED, ["switch-to-configuration"]),
        (Goal.BOOT, NodeOutcome.READY, ["commit", "record"]),
        (Goal.TEST, NodeOutcome.TESTED, [*ACTIVATE, *CONFIRM, "record"]),
    ],
)
def test_what_the_other_goals_run(
    deploy: Callable[..., Report], machine: Machine, goal: Goal, outcome: NodeOutcome, commands: list[str]
) -> None:
    assert deploy(goal).outcome is outcome
    assert machine.did == [*PREPARE, *commands, *(END if goal is Goal.TEST else ["unlock"])]


def test_an_unhealthy_node_rolls_back_and_is_recorded(deploy: Callable[..., Report], machine: Machine) -> None:
    answers = iter(["ok", "failed"])

    def fail(name: str) -> None:
        if name == "health checks":
            check = f'{{"subject": "", "check": "etcd", "result": "{next(answers)}", "detail": "no answer"}}'
            machine.answers[name] = reply(f'{{"checks": [{check}]}}')

    machine.on = fail
    report = deploy()
    assert (report.outcome, report.reason, report.log) == (NodeOutcome.ROLLED_BACK, "etcd: no answer", "log")
    assert "commit" not in machine.did
    assert Entry(**json.loads(machine.history[-1])).outcome == "rolled back"


def test_failed_units_are_reported_with_their_journal(deploy: Callable[..., Report], machine: Machine) -> None:
    machine.failed = ["kubelet.service", "smallkube-rollback-1.service"]
    machine.answers["journalctl"] = reply("".join(f"{n}\n" for n in range(30)) + f"why\x1b[2J{'x' * 1000}\n")
    report = deploy()
    assert (report.outcome, report.reason) == (NodeOutcome.ROLLED_BACK, "failed units: kubelet.service")
    assert [*report.journal] == ["kubelet.service"]
    lines = report.journal["kubelet.service"].splitlines()
    assert len(lines) == deploying.JOURNAL_LINES
    assert lines[-1].startswith(r"why\x1b[2Jxxx") and len(lines[-1]) < 600


def test_log_of_a_deploy_is_named_by_its_date(
    deploy: Callable[..., Report], machine: Machine, workspace: Workspace
) -> None:
    deploy()
    (file,) = (workspace.state_dir / "logs").iterdir()
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d{6}Z-node2-[0-9a-f]{8}\.log", file.name)
    assert file.read_bytes() == b"building\n\n--- activation\nlog"


def test_a_failed_build_ends_with_its_log(deploy: Callable[..., Report], machine: Machine) -> None:
    machine.answers["build"] = reply(status=1, stderr="syntax error\n")
    report = deploy()
    assert (report.outcome, report.log) == (NodeOutcome.FAILED, "syntax error")
    assert report.reason.startswith("the build failed: syntax error; the whole log is in .smallkube/logs/")
    assert machine.did == [*PREPARE[:-1], *END]


def test_a_failed_build_says_where_nix_found_the_error(deploy: Callable[..., Report], machine: Machine) -> None:
    error = "error: undefined variable 'x'\n at /etc/x/nix/hosts/node2.nix:3:5:\n 3| b = x;\n"
    log = f"error:\n … while x\n {error}Command 'nix build' returned non-zero exit status 1.\n"
    machine.answers["build"] = reply(status=1, stderr=log)
    assert deploy().reason.startswith(
        "the build failed: undefined variable 'x' at /etc/x/nix/hosts/node2.nix:3:5:; the"
    )


def test_what_was_deployed_from_is_recorded(deploy: Callable[..., Report], machine: Machine) -> None:
    deploy(keys="k", commit="c")
    found = Entry(**json.loads(machine.history[-1]))
    assert (found.keys, found.commit) == ("k", "c")


def test_another_deploy_has_the_lock(deploy: Callable[..., Report], machine: Machine) -> None:
    machine.answers["lock"] = reply(status=75, stderr="locked by ann@laptop\n")
    assert deploy().reason == "locked by ann@laptop; wait for that deploy to end"
    assert machine.did == ["lock"]


@pytest.mark.parametrize("command", ["commit", "record"])
def test_a_lost_answer_of_the_last_steps_is_asked_again(
    deploy: Callable[..., Report], machine: Machine, command: str
) -> None:
    machine.fails_once = {command}
    assert deploy().outcome is NodeOutcome.DEPLOYED
    assert machine.did.count(command) == 2


def test_a_commit_that_fails_says_what_runs_and_boots(deploy: Callable[..., Report], machine: Machine) -> None:
    machine.answers["commit"] = reply(status=1, stderr="no space\n")
    report = deploy()
    assert report.outcome is NodeOutcome.FAILED
    assert report.reason.startswith("it runs the new system; it may not boot the new one: commit failed: no space")


def test_an_interruption_stops_before_the_activation(deploy: Callable[..., Report], machine: Machine) -> None:
    def interrupt(name: str) -> None:
        if name == "build":
            machine.stop.set()

    machine.on = interrupt
    report = deploy()
    assert (report.outcome, report.reason) == (NodeOutcome.FAILED, "interrupted before anything was activated")
    assert "arm" not in machine.did


def test_a_stale_rollback_is_run_first(deploy: Callable[..., Report], machine: Machine) -> None:
    machine.armed = ["smallkube-rollback-1.timer"]
    assert deploy().outcome is NodeOutcome.DEPLOYED
    assert machine.did[:5] == ["lock", "receive", "run-stale-rollbacks", "facts", "receive"]


def test_a_rollback_deploys_the_previous_generation(deploy: Callable[..., Report], machine: Machine) -> None:
    report = deploy(generation="")
    assert (report.outcome, report.system) == (NodeOutcome.DEPLOYED, "/nix/store/older")
    assert machine.did[:5] == ["lock", "receive", "facts", "cat", "difference"]
