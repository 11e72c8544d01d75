"""Proves that any argument list reaches the program as it is, through a real shell, and how results are told."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallkube.remote.host import Command, Result

WORDS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40), max_size=6)


@settings(max_examples=60)
@given(WORDS)
def test_every_word_arrives_as_it_is(words: list[str]) -> None:
    program = ("printf", "%s\\0", *words, "end")
    done = subprocess.run(["sh", "-c", Command(program).script("none")], capture_output=True, check=True)
    assert done.stdout == b"".join(word.encode() + b"\0" for word in (*words, "end"))


def test_root_is_had_by_sudo_only_where_that_is_wanted() -> None:
    assert Command(("id", "-u")).script("sudo") == b"exec sudo -n -- env LC_ALL=C id -u"
    assert Command(("id", "-u")).script("none") == b"exec id -u"
    assert Command(("id", "-u"), root=False).script("sudo") == b"exec id -u"


def test_standard_input_is_never_shown() -> None:
    assert "hunter2" not in repr(Command(("cat",), stdin=b"hunter2"))


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (Command(("/run/current-system/sw/bin/nix", "build")), "nix"),
        (Command(("/bin/sh", "x.sh"), title="build"), "build"),
    ],
)
def test_messages_name_the_program_or_its_title(command: Command, name: str) -> None:
    assert command.name == name


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (Result(1, b"out\n", "first\nlast\n\n"), "last"),
        (Result(1, b"one\ntwo\n", " \n"), "two"),
        (Result(7, b"", ""), "exit status 7, no message"),
        (Result(1, b"\xff", ""), "�"),
    ],
)
def test_last_line_is_the_last_line_of_output(result: Result, words: str) -> None:
    assert result.last_line == words
    assert not result.ok
