"""Which scripts count as the same for shellcheck: those that differ in addresses, keys and how many there are."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.nix.shellcheck import shape


def script(*peers: int, store: str = "a") -> str:
    """With what the scripts of nix/modules/wireguard.nix have of each peer."""

    def words(index: int) -> str:
        key = base64.b64encode(bytes([index]) * 32).decode()
        return (
            f"peer {key} endpoint 192.0.2.{index}:51820 allowed-ips fd88:{index}::/32,10.88.{index}.0/24 keepalive off"
        )

    table = " ".join(f"[{words(index).split()[1]}]='{words(index)}'" for index in peers)
    addresses = " ".join(f"fd88:{index}::1" for index in peers)
    return "\n".join(
        [
            f"#!/nix/store/{store * 32}-bash/bin/bash",
            f"for address in {addresses}; do echo $address; done",
            f"declare -A peers=({table})",
            f"wg set wgkube {' '.join(map(words, peers))} || true\n",
        ]
    )


def test_more_peers_are_the_same_script() -> None:
    assert shape(script(*range(1, 6))) == shape(script(*range(7, 254), store="b"))


@pytest.mark.parametrize(("one", "other"), [((), (1,)), ((1,), (1, 2))])
def test_none_one_and_two_peers_are_different_scripts(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert shape(script(*one)) != shape(script(*other))


@pytest.mark.parametrize(
    "text",
    ["echo a a a a", "echo ' ' ' '", "[ 1 = 1 ] && [ 1 = 1 ] && [ 1 = 1 ]", "cd $HOME; rm -rf $1/*", "x=12:34:zz"],
)
def test_other_words_are_kept(text: str) -> None:
    assert shape(text) == text


def test_an_open_quote_is_not_closed() -> None:
    assert shape("a ' 192.0.2.1 ' 192.0.2.1 ' 192.0.2.1").count("'") == 3


@given(st.text(alphabet="ab'\" $;\n", max_size=60))
def test_text_without_addresses_and_keys_is_kept(text: str) -> None:
    assert shape(text) == text
