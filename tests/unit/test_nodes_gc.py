"""What `inv nodes.gc` keeps, shows, asks and refuses, with machines in memory."""

import json

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from smallkube.cli import nodes_clean
from smallkube.cli.context import Current
from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import Node
from smallkube.operations import gc
from smallkube.remote import scripts
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.host import Command, Result
from tests.unit.fake_cluster import FakeCluster

Capture = pytest.CaptureFixture[str]
FACTS: dict[str, object] = {
    "current": "7",
    "systems": {str(number): f"/nix/store/{number}" for number in range(1, 8)},
    "system": "/nix/store/7",
    "booted": "/nix/store/2",
    "rollback": "/nix/var/nix/gcroots/smallkube-rollback",
    "armed": [],
    "owner": "",
    "images": {"images": [{"id": "a", "size": "3145728"}, {"id": "b", "size": "5", "pinned": True}]},
    "containers": {"containers": []},
}
IDLE = {"systems": {"7": "/nix/store/7"}, "images": None, "containers": None}


class Machines:
    """node1 and node2: ``facts`` of each, and what each was asked to do."""

    def __init__(self) -> None:
        self.facts = {"node1": dict(FACTS), "node2": dict(FACTS)}
        self.measured = {"paths": 12, "bytes": 1 << 30}
        self.done: list[tuple[str, ...]] = []
        self.off: set[str] = set()
        self.locked = ""

    def connect(self, node: Node) -> FakeHost:
        if node.name in self.off:
            raise SmallkubeError("can't be reached", where=node.name)
        return FakeHost(node, lambda command: self.answer(node.name, command))

    def answer(self, name: str, command: Command) -> Result:
        _, _, _, script, what, *arguments = command.argv
        match script, what:
            case "gc", "facts":
                return reply(json.dumps(self.facts[name]))
            case "gc", "measure":
                return reply(json.dumps(self.measured))
            case "activation", "lock" if self.locked == name:
                return reply(status=75, stderr="locked by you\n")
        self.done.append((name, what, *(arguments if script == "gc" else ())))
        return reply('{"freed": 2048}')


@pytest.fixture
def machines(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Machines:
    made = Machines()
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(cluster.workspace.root))
    monkeypatch.setattr(Current, "connect", lambda _, node: made.connect(node))
    return made


def facts(**changed: object) -> gc.Facts:
    found: gc.Facts = scripts.parse(json.dumps(FACTS | changed), gc.Facts, "gc", "node1")
    return found


@pytest.mark.parametrize(
    ("changed", "keep", "expected"),
    [
        ({}, 1, "1 3 4 5"),
        ({}, 3, "1 3 4"),
        ({}, 7, ""),
        ({"current": "3"}, 1, "1 4 5 6"),
        ({"booted": "/nix/store/7"}, 2, "1 2 3 4 5"),
        ({"rollback": "/nix/store/1"}, 2, "3 4 5"),
        ({"current": "", "system": "", "booted": ""}, 1, "1 2 3 4 5 6"),
        ({"systems": {"7": "/nix/store/7", "10": "/x", "": "/y"}}, 1, ""),
    ],
)
def test_generations_that_may_go(changed: dict[str, object], keep: int, expected: str) -> None:
    assert facts(**changed).removable(keep) == tuple(expected.split())


@pytest.mark.parametrize(
    "wrong",
    [
        {"images": {"images": [{"id": "a", "size": "-1"}]}},
        {"images": {"images": [{"id": "a" * 301}]}},
        {"containers": []},
        {"systems": {"1; reboot": "/x"}},
        {"owner": None},
    ],
)
def test_other_answers_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SmallkubeError, match="unexpected output from gc"):
        facts(**wrong)


def test_a_dry_run_shows_it_and_changes_nothing(machines: Machines, capsys: Capture) -> None:
    nodes_clean.gc(Context(), dry_run=True)
    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines()[1:]] == [
        [name, "checked", "1", "1.0", "GiB", "1", "(3.0", "MiB)"] for name in ("node1", "node2")
    ]
    assert "would connect to node2 (root@192.168.0.2:22)" in err
    assert machines.done == []


def test_both_are_cleaned_under_the_lock_of_deploys(machines: Machines, capsys: Capture) -> None:
    nodes_clean.gc(Context(), yes=True, keep=3, json=True)
    for name in ("node1", "node2"):
        done = [words[1:] for words in machines.done if words[0] == name]
        assert done == [("lock",), ("store", "1", "3", "4"), ("images",), ("unlock",)]
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [(each["node"], each["outcome"], each["generations"]) for each in found] == [
        ("node1", "cleaned", ["1", "3", "4"]),
        ("node2", "cleaned", ["1", "3", "4"]),
    ]
    assert (found[0]["store_bytes"], found[0]["images"], found[0]["image_bytes"]) == (2 << 20, 1, 2 << 20)
    assert "- node1: generations: 1, 3, 4; 12 store paths, 1.0 GiB; 1 images, at most 3.0 MiB" in err


def test_it_asks_before_it_changes_anything(machines: Machines) -> None:
    with pytest.raises(Exit, match=r"remove that.* confirmation required; pass --yes") as refused:
        nodes_clean.gc(Context())
    assert (refused.value.code, machines.done) == (2, [])


def test_images_can_be_left(machines: Machines) -> None:
    nodes_clean.gc(Context(), yes=True, images=False, node=["node2"])
    assert [words[1] for words in machines.done] == ["lock", "store", "unlock"]


def test_nothing_to_remove_takes_no_question(machines: Machines, capsys: Capture) -> None:
    machines.measured = {"paths": 0, "bytes": 0}
    machines.facts = dict.fromkeys(machines.facts, FACTS | IDLE)
    nodes_clean.gc(Context())
    assert "images are left: CRI-O does not answer" in capsys.readouterr().out
    assert machines.done == []


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"armed": ["smallkube-rollback-1.timer"]}, "a deploy is not confirmed: smallkube-rollback-1.timer"),
        ({"owner": "me@here"}, "a deploy is under way there: me@here"),
    ],
)
def test_a_deploy_keeps_its_node_as_it_is(
    changed: dict[str, object], reason: str, machines: Machines, capsys: Capture
) -> None:
    machines.facts["node2"].update(changed)
    with pytest.raises(Exit, match="node2 failed") as ended:
        nodes_clean.gc(Context(), yes=True)
    assert ended.value.code == 1
    assert reason in capsys.readouterr().out
    assert {words[0] for words in machines.done} == {"node1"}


def test_a_deploy_that_began_since_keeps_it_too(machines: Machines, capsys: Capture) -> None:
    machines.locked = "node1"
    with pytest.raises(Exit, match="node1 failed"):
        nodes_clean.gc(Context(), yes=True)
    assert "locked by you" in capsys.readouterr().out
    assert {words[0] for words in machines.done} == {"node2"}


def test_one_that_is_off_does_not_hold_up_the_other(machines: Machines, capsys: Capture) -> None:
    machines.off.add("node1")
    with pytest.raises(Exit, match="node1 failed"):
        nodes_clean.gc(Context(), yes=True)
    assert "can't be reached" in capsys.readouterr().out
    assert {words[0] for words in machines.done} == {"node2"}


def test_what_is_needed_since_it_was_shown_stays(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = gc.execute

    def later(*arguments: object) -> object:
        machines.facts["node2"].update(booted="/nix/store/1")
        return execute(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(gc, "execute", later)
    nodes_clean.gc(Context(), yes=True, keep=3, node=["node2"])
    assert ("node2", "store", "3", "4") in machines.done
