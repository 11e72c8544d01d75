"""The age header parser: reads what pyrage writes, never crashes on garbage, and says what is wrong in one line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyrage import encrypt, x25519

from smallkube.core.errors import SmallkubeError
from smallkube.secrets.header import INTRO, parse_header
from smallkube.secrets.host_keys import parse_host_key

HOST = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKuln964CDvuGUSVZqHhUY1et7pPXWWNyKqTze0Zd9Rr"


def sample(plaintext: bytes = b"secret", *, armored: bool = False, natives: int = 1) -> bytes:
    from pyrage import ssh

    recipients = [x25519.Identity.generate().to_public() for _ in range(natives)]
    return bytes(encrypt(plaintext, [*recipients, ssh.Recipient.from_str(HOST)], armored=armored))


@pytest.mark.parametrize("armored", [False, True])
@pytest.mark.parametrize("length", [0, 1, 45, 65535, 65536, 65537, 131072, 200000])
def test_recipients_and_length_of_the_plaintext(length: int, armored: bool) -> None:
    header = parse_header(sample(bytes(length), armored=armored, natives=2), "x.age")
    assert header.plaintext_length == length
    assert header.x25519_count == 2
    assert header.ssh_tags == (parse_host_key(HOST, "").tag,)
    assert header.others == ()


@settings(max_examples=300)
@given(st.binary(max_size=400), st.booleans())
def test_garbage_gives_one_clear_error(garbage: bytes, begun: bool) -> None:
    data = (INTRO if begun else b"") + garbage
    with pytest.raises(SmallkubeError) as caught:
        parse_header(data, "x.age")
    assert str(caught.value).startswith("x.age: damaged age file: ")
    assert "\n" not in str(caught.value)


SAMPLE = sample()


@settings(max_examples=500)
@given(st.integers(0, len(SAMPLE) - 1), st.integers(1, 255))
def test_one_changed_byte_never_crashes(position: int, change: int) -> None:
    data = bytearray(SAMPLE)
    data[position] ^= change
    try:
        parse_header(bytes(data), "x.age")
    except SmallkubeError as error:
        assert "damaged" in str(error)


@given(st.integers(0, len(SAMPLE) - 1))
def test_truncation_is_seen_unless_only_the_payload_shrinks(length: int) -> None:
    header_end = SAMPLE.index(b"\n", SAMPLE.index(b"\n--- ") + 1) + 1
    if length >= header_end + 32:
        assert parse_header(SAMPLE[:length], "x").plaintext_length < len(b"secret")
        return
    with pytest.raises(SmallkubeError):
        parse_header(SAMPLE[:length], "x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "empty"),
        (b"age-encryption.org/v2\n", "begin"),
        (INTRO + b"--- AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n", "no recipient"),
        (INTRO + b"-> X25519 a b\nAAAA\n", "arguments"),
        (INTRO + b"-> ssh-ed25519 a\nAAAA\n", "arguments"),
        (INTRO + b"->  X25519\nAAAA\n", "malformed"),
        (INTRO + b"-> X25519 a\n" + b"A" * 65 + b"\n", "malformed"),
        (INTRO + b"-> X25519 a\nAB\n--- ", "canonical"),
        (INTRO + b"-> X25519 a\n!!\n", "base64"),
        (b"-----BEGIN AGE ENCRYPTED FILE-----\nAAAA\n", "armor"),
        (b"-----BEGIN AGE ENCRYPTED FILE-----\n*\n-----END AGE ENCRYPTED FILE-----\n", "armor"),
    ],
)
def test_each_fault_is_named(text: bytes, said: str) -> None:
    with pytest.raises(SmallkubeError, match=said):
        parse_header(text, "x.age")


def test_unknown_recipients_are_listed_and_grease_is_not() -> None:
    stanzas = b"-> scrypt salt 18\nAAAA\n-> q-grease DO &+\nAAAA\n-> X25519 AAAA\nAAAA\n"
    data = INTRO + stanzas + b"--- " + b"A" * 43 + b"\n" + bytes(16 + 16 + 5)
    assert parse_header(data, "x").others == ("scrypt",)
