"""Verifies how the facts that machines report are read, and that unexpected output is one clear error."""

import hashlib
import json
import os
import pwd
import socket
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.core.errors import SmallkubeError
from smallkube.deploy import facts, history
from smallkube.deploy.facts import Changes, DeployFacts, Generations, Progress
from smallkube.deploy.local_build import missing_paths
from smallkube.inventory.models import Node
from smallkube.nix.bundle import Bundle
from smallkube.remote import scripts
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.host import Command, Result

SYSTEM = "/nix/store/aaa-nixos-system-node1"
ENTRY = {
    "time": "2026-01-01T00:00:00+00:00",
    "operator": "root@x",
    "goal": "switch",
    "digest": "d",
    "system": SYSTEM,
    "generation": "3",
    "outcome": "deployed",
    "reason": "a\u2028b",
}
FACTS: dict[str, Any] = {
    "script": "facts",
    "has_bundle": True,
    "has_scripts": False,
    "host_key": "ssh-ed25519 AAAA root@node1",
    "clock": 1_700_000_000,
    "store_free": 2_000_000,
    "state_free": 100_000,
    "system": SYSTEM,
    "profile": "/nix/store/bbb",
    "generation": "12",
    "history": [json.dumps(ENTRY), json.dumps({**ENTRY, "digest": "e", "outcome": "rolled back"})],
    "failed": ["a.service", "b=c.service"],
    "armed": ["smallkube-rollback-1234.timer"],
}
PROGRESS = Progress(True, 4, "", None, SYSTEM, frozenset({"x.service"}), "log=no\n\nlast line")


def host(output: str) -> FakeHost:
    return FakeHost(Node(name="node1", index=1, peer_ip="192.168.0.1"), lambda _: reply(output))


def read(**changes: object) -> DeployFacts:
    return facts.of_deploy(host(json.dumps(FACTS | changes)), Bundle({}))


def test_facts_for_a_deploy_are_read() -> None:
    found = read()
    assert (found.has_bundle, found.has_scripts, found.clock) == (True, False, 1_700_000_000)
    assert found.failed == {"a.service", "b=c.service"}
    assert found.armed == ("smallkube-rollback-1234.timer",)
    assert found.last_deploy and found.last_deploy.digest == "d"


@pytest.mark.parametrize("system", ["", "/run/current-system"])
def test_a_machine_without_a_system_is_no_nixos_machine(system: str) -> None:
    with pytest.raises(SmallkubeError, match="not a NixOS machine"):
        read(system=system)


@pytest.mark.parametrize("changes", [{"clock": "1"}, {"clock": None}, {"failed": "a"}, {"armed": [1]}, {"system": []}])
def test_facts_of_another_shape_are_unexpected_output(changes: dict[str, object]) -> None:
    with pytest.raises(SmallkubeError, match=r"^node1 \(fake\): unexpected output from facts$"):
        read(**changes)


@given(st.text())
def test_any_other_text_is_unexpected_output(text: str) -> None:
    with pytest.raises(SmallkubeError, match="unexpected output from progress"):
        facts.progress(host(text), "nonce")
    history.parse(text.split("\n"))


def test_progress_is_read() -> None:
    printed = json.dumps({**asdict(PROGRESS), "failed": ["x.service"]})
    assert facts.progress(host(printed), "nonce") == PROGRESS


def test_scripts_are_addressed_by_their_content() -> None:
    command = facts.SCRIPTS.pushed("activation", "confirm", "1234", title="confirm")
    path = f"{scripts.HOME}/scripts/{facts.SCRIPTS.bundle.digest}/activation.sh"
    assert command.argv == ("/bin/sh", path, "confirm", "1234")
    assert command.name == "confirm"
    sent = facts.SCRIPTS.sent("facts", "generations")
    assert facts.SCRIPTS.bundle.files["facts.sh"].decode() in sent.argv
    assert sent.argv[-2:] == ("facts", "generations")


GENERATIONS = Generations("12", {"3": "/nix/store/c", "9": "/nix/store/i", "12": "/nix/store/l", "13": "/nix/store/m"})


@pytest.mark.parametrize(("number", "system"), [("", "/nix/store/i"), ("3", "/nix/store/c"), ("13", "/nix/store/m")])
def test_a_generation_is_found_by_number_or_as_the_previous(number: str, system: str) -> None:
    assert GENERATIONS.find(number) == system


@pytest.mark.parametrize(("number", "words"), [("999", "999"), ("", "before 3")])
def test_a_generation_that_does_not_exist_is_named(number: str, words: str) -> None:
    generations = Generations("3", {"3": "/nix/store/c"})
    with pytest.raises(SmallkubeError, match=f"there is no generation {words}"):
        generations.find(number)


@pytest.mark.parametrize("number", ["x", "9" * 5000, "-1", "\u0661", "7\n", " 7", "1_0"])
def test_a_number_that_no_generation_has_is_unexpected(number: str) -> None:
    for answer in ({"current": number, "systems": {}}, {"current": "7", "systems": {number: "/nix/store/a"}}):
        with pytest.raises(scripts.UnexpectedOutputError, match="unexpected output from facts"):
            facts.generations(host(json.dumps(answer)))


def test_history_survives_power_cuts_and_later_versions() -> None:
    line = json.dumps(ENTRY, ensure_ascii=False)
    lines = [line, line[:40], "[]", "null", '{"time": 1}', "", line[:-1] + ', "more": 1}']
    assert [entry.reason for entry in history.parse(lines)] == ["a\u2028b"] * 2


def deployed(files: dict[str, bytes]) -> FakeHost:
    """A machine to which these files were deployed last."""
    folder = f"{scripts.HOME}/bundles/d/"
    lines = [f"{hashlib.sha256(text).hexdigest()}  {folder}{name}\n" for name, text in files.items()]

    def answer(command: Command) -> Any:
        if command.argv[0] == "cat":
            return reply(json.dumps(ENTRY))
        assert command.argv[:2] == ("find", folder)
        return reply("".join(lines))

    return FakeHost(host("").node, answer)


def test_history_goes_on_after_a_line_that_was_cut() -> None:
    """By a power cut, in the middle of an entry or with zeros in its place."""
    entries = [history.Entry(f"t{number}", *"abcdefg") for number in range(2)]
    written: list[bytes] = []

    def answer(command: Command) -> Result:
        written.append(command.stdin or b"")
        return reply()

    for entry in entries:
        history.append(FakeHost(Node(name="node1", index=1, peer_ip="192.168.0.1"), answer), entry)
    for cut in range(len(written[0])):
        for rest in (b"", b"\0" * 8):
            lines = (written[0][:cut] + rest + written[1]).decode().split("\n")
            assert history.parse(lines)[-1] == entries[1], cut


@pytest.mark.parametrize("line", ["[" * 100_000, "{}", "[]", "null", "1" * 5000, '{"time": {}}', "\ud800"])
def test_history_of_another_shape_is_skipped(line: str) -> None:
    assert history.parse([line]) == ()


def test_operator_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: object) -> None:
        raise KeyError("getpwuid(): uid not found")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert history.operator() == f"{os.getuid()}@{socket.gethostname()}"


def test_files_are_compared_with_those_deployed_last() -> None:
    there = deployed({"nix/a.nix": b"1", "nix/b.nix": b"1", "keys/x.age": b"1"})
    found = facts.changes(there, Bundle({"nix/a.nix": b"1", "nix/c d.nix": b"1", "keys/x.age": b"2"}))
    assert found == Changes(True, added=("nix/c d.nix",), changed=("keys/x.age",), removed=("nix/b.nix",))
    assert found.secrets == ("keys/x.age",)
    assert found.lines() == ["+ nix/c d.nix", "~ keys/x.age", "- nix/b.nix"]


def test_the_same_files_are_no_change() -> None:
    assert facts.changes(deployed({"a": b"1"}), Bundle({"a": b"1"})).lines() == []


def test_without_a_previous_deploy_there_is_nothing_to_compare() -> None:
    assert facts.changes(host(""), Bundle({"a": b"1"})) == Changes(known=False)


def test_only_paths_of_the_closure_are_exported() -> None:
    """What a machine names becomes arguments of nix-store on the operator's machine."""
    named = host("/nix/store/b\n--option\npost-build-hook\n/nix/store/x\n/nix/store/a\n")
    assert missing_paths(named, ("/nix/store/a", "/nix/store/b", "/nix/store/c")) == ["/nix/store/a", "/nix/store/b"]
