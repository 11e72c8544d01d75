"""Proves what a rotation of the encryption key does from each point, and that every state of it can still read all."""

import base64
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallkube.core.errors import UsageError
from smallkube.operations.encryption import Configuration, Phase, parse, paths
from smallkube.secrets import kinds
from smallkube.secrets.policy import Kind

A, B = ("key1", base64.b64encode(b"a" * 32).decode()), ("key2", base64.b64encode(b"b" * 32).decode())


def configuration(*keys: tuple[str, str]) -> Configuration:
    return Configuration(keys, ("secrets",))


def test_a_generated_configuration_round_trips() -> None:
    made = kinds.make(Kind.ENCRYPTION, ["secrets", "configmaps"])
    found = parse(made)
    assert found.phase is Phase.ONE
    assert found.resources == ("secrets", "configmaps")
    assert found.text() == made


@pytest.mark.parametrize(
    ("keys", "phase"), [((A,), Phase.ONE), ((A, B), Phase.ADDED), ((B, A), Phase.PROMOTED), ((B,), Phase.ONE)]
)
def test_the_phase_follows_from_the_keys(keys: tuple[tuple[str, str], ...], phase: Phase) -> None:
    assert configuration(*keys).phase is phase
    kinds.validate(Kind.ENCRYPTION, configuration(*keys).text(), "x")


@pytest.mark.parametrize("keys", [(A, A), (("a", A[1]), ("b", B[1])), (A, B, ("key3", A[1]))])
def test_keys_that_no_rotation_left_so_are_refused(keys: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(UsageError, match="can't tell where a rotation stands"):
        configuration(*keys).phase  # noqa: B018


def test_each_state_decrypts_what_the_previous_encrypted() -> None:
    states = [configuration(A)]
    states.append(states[-1].with_new(b"b" * 32))
    states.append(states[-1].swapped())
    states.append(states[-1].first_only())
    assert [state.keys for state in states] == [(A,), (A, B), (B, A), (B,)]
    for before, after in itertools.pairwise(states):
        # with one API server: all that was encrypted by then is readable; the last step comes after a search
        assert before.keys[0] in after.keys or after is states[-1]


@given(st.from_regex(r"[A-Za-z0-9._-]{1,40}|key[0-9]{1,12}", fullmatch=True))
@settings(max_examples=40)
def test_a_first_key_of_any_name_is_rotated(name: str) -> None:
    added = configuration((name, A[1])).with_new(b"b" * 32)
    assert added.phase is Phase.ADDED
    assert added.swapped().phase is Phase.PROMOTED
    assert added.swapped().first_only().keys == (added.keys[1],)
    kinds.validate(Kind.ENCRYPTION, added.text(), "x")
    assert parse(added.text()) == added


def test_resources_are_added_and_never_taken_away() -> None:
    assert configuration(A).covering(["configmaps"]).resources == ("secrets", "configmaps")


def test_neither_key_is_ever_shown() -> None:
    assert A[1] not in repr(configuration(A, B))


@pytest.mark.parametrize(
    "text",
    [
        "resources: [{resources: [secrets], providers: [{aescbc: {keys: []}}, {secretbox: {keys: []}}]}]",
        "resources: [{resources: [a], providers: [{identity: {}}]}]",
    ],
)
def test_what_smallkube_does_not_write_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="other providers or parts"):
        parse(text.encode())


def test_custom_resources_lie_under_their_group() -> None:
    assert paths(["secrets", "widgets.example.com"]) == ["secrets", "widgets", "example.com/widgets"]
