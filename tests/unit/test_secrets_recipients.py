"""What can be said of an encrypted file with and without records and the master, and what each statement rests on."""

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.core.workspace import Workspace
from smallkube.secrets import age
from smallkube.secrets.host_keys import parse_host_key
from smallkube.secrets.keyring import of_master
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.recipients import Proof, State, examine, read_records, record, render_records

HOSTS = {
    "node1": parse_host_key("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKuln964CDvuGUSVZqHhUY1et7pPXWWNyKqTze0Zd9Rr", "1"),
    "node2": parse_host_key("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFjg0kLwIy6BBWg6t5Jn9BA4BzzA3oDQfUWr4FZiaNxV", "2"),
    "node4": parse_host_key("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICP9c0a0zFq9JJsizPhfEWTK/q0AvDHYu+s3W8ifaTBx", "4"),
}
TEXT, RECIPIENT = age.new_identity()
MASTER = age.parse_master(TEXT, "master_key")
_, STRANGER = age.new_identity()
KEYRING = of_master(RECIPIENT, HOSTS)
TOKEN = Secret("kube_token_node2", Kind.TOKEN, "node2", ("node1", "node2"))
GOOD = KEYRING.recipients(TOKEN)
N1, N2, N4 = (str(HOSTS[node]) for node in ("node1", "node2", "node4"))
PLAINTEXT = b"t" * 64 + b"\n"


@pytest.mark.parametrize("text", ["", "No matching keys found", "too new"])
def test_damage_is_recognised_whatever_pyrage_says(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise pyrage.DecryptError(text)

    both = age.parse_master(f"{age.new_identity()[0]}{TEXT}", "master_key")
    monkeypatch.setattr(pyrage, "decrypt_io", fail)
    for recipients, wanted in (
        (GOOD, State.DAMAGED),
        ([STRANGER, *GOOD], State.DAMAGED),
        ([*GOOD[1:], STRANGER], State.WRONG_SET),
        ([N1, N2], State.WRONG_SET),
    ):
        for master in (MASTER, both):
            assert examine(TOKEN, age.encrypt(PLAINTEXT, recipients), KEYRING, None, master).state is wanted


def test_a_valid_file_passes_each_kind_of_verification() -> None:
    data = age.encrypt(PLAINTEXT, GOOD)
    recorded = record(data, GOOD)
    for given_record, master, proof in (
        (None, None, Proof.HEADER),
        (recorded, None, Proof.RECORDED),
        (recorded, MASTER, Proof.DECRYPTED),
    ):
        found = examine(TOKEN, data, KEYRING, given_record, master)
        assert (found.state, found.proof, found.faults) == (State.GOOD, proof, ())
    other = record(b"other bytes", GOOD)
    assert examine(TOKEN, data, KEYRING, other, None).proof is Proof.HEADER


@pytest.mark.parametrize(
    ("recipients", "said"),
    [
        ((RECIPIENT, N1), "node2 can't read it"),
        ((RECIPIENT, N1, N2, N4), "node4 can read it and must not"),
        ((RECIPIENT, STRANGER, N1, N2), "2 native recipients"),
        ((N1, N2), "0 native recipients"),
    ],
)
def test_a_wrong_set_is_seen_in_the_header_alone(recipients: tuple[str, ...], said: str) -> None:
    data = age.encrypt(PLAINTEXT, recipients)
    for recorded in (None, record(data, GOOD)):
        found = examine(TOKEN, data, KEYRING, recorded, None)
        assert found.state is State.WRONG_SET
        assert any(said in fault for fault in found.faults)


def test_another_master_is_found_by_record_or_decryption() -> None:
    recipients = (STRANGER, N1, N2)
    data = age.encrypt(PLAINTEXT, recipients)
    assert examine(TOKEN, data, KEYRING, None, None).state is State.GOOD
    assert examine(TOKEN, data, KEYRING, record(data, recipients), None).state is State.WRONG_SET
    found = examine(TOKEN, data, KEYRING, None, MASTER)
    assert (found.state, found.proof) == (State.WRONG_SET, Proof.DECRYPTED)


def test_without_a_readers_host_key_nothing_is_claimed() -> None:
    found = examine(TOKEN, age.encrypt(PLAINTEXT, GOOD), of_master(RECIPIENT, {"node1": HOSTS["node1"]}), None, MASTER)
    assert (found.state, found.faults) == (State.UNKNOWN, ("no host key of node2",))


def test_content_of_another_kind_is_damage() -> None:
    found = examine(TOKEN, age.encrypt(b"no token", GOOD), KEYRING, None, MASTER)
    assert found.state is State.DAMAGED
    wireguard = Secret("wgkube2.key", Kind.WIREGUARD, "node2", ("node2",))
    data = age.encrypt(b"12345", KEYRING.recipients(wireguard))
    assert examine(wireguard, data, KEYRING, None, None).faults == ("it holds 5 bytes, which no WireGuard key has",)


def test_plaintext_is_in_no_representation() -> None:
    found = examine(TOKEN, age.encrypt(PLAINTEXT, GOOD), KEYRING, None, MASTER)
    assert found.plaintext == PLAINTEXT
    assert PLAINTEXT.decode().strip() not in repr(found)


@given(st.dictionaries(st.text(max_size=20), st.lists(st.text(max_size=20), max_size=3), max_size=5))
def test_records_round_trip(tmp_path_factory: pytest.TempPathFactory, names: dict[str, list[str]]) -> None:
    rows = {name: record(name.encode(), recipients) for name, recipients in names.items()}
    workspace = Workspace(tmp_path_factory.mktemp("ws"))
    workspace.keys_dir.mkdir()
    workspace.recipients_file.write_text(render_records(rows), encoding="utf-8")
    assert read_records(workspace) == rows
