"""Administrators in inventory.yaml: what is accepted, what is refused on which line, and edits that keep the rest."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.core.errors import SmallkubeError
from smallkube.inventory import admins, load
from smallkube.inventory.admins import Kind, kind_of, plugin_of, recipient, short
from smallkube.inventory.edit import add_admin, change_admin, remove_admin
from smallkube.secrets import age
from tests import age_plugin

ANNA = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
BOB = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKuln964CDvuGUSVZqHhUY1et7pPXWWNyKqTze0Zd9Rr"
CARL = "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t"
WEAK = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z"
"""32 zero bytes."""
NODES = "nodes:\n  node1: {peer_ip: 192.168.0.1}\n"


def parsed(*lines: str) -> dict[str, str]:
    head = "cluster:\n  name: test\n  secrets:\n    admins:\n"
    text = "".join([head, *(f"      {line}\n" for line in lines), NODES])
    return dict(load.parse(text, Path("inventory.yaml")).cluster.secrets.admins)


def test_each_kind_is_accepted() -> None:
    found = parsed(f"anna: {ANNA}", f"bob: {BOB} bob@laptop", f"carl: {CARL}", f"d.e-f_9: {age_plugin.recipient(b'x')}")
    assert found == {"anna": ANNA, "bob": BOB, "carl": CARL, "d.e-f_9": age_plugin.recipient(b"x")}
    assert [kind_of(each) for each in found.values()] == [Kind.X25519, Kind.SSH, Kind.PLUGIN, Kind.PLUGIN]
    assert [plugin_of(each) for each in found.values()] == ["", "", "yubikey", age_plugin.NAME]


def test_without_them_there_are_none() -> None:
    assert load.parse(f"cluster: {{name: test}}\n{NODES}", Path("inventory.yaml")).cluster.secrets.admins == {}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([f"anna: {ANNA}", f"anna: {CARL}"], "inventory.yaml:6: anna: duplicate key; first defined on line 5"),
        ([f"anna: {ANNA}", f"bob: {ANNA}"], "6: cluster.secrets.admins.bob: is the recipient of anna already"),
        ([f"anna: {BOB} one", f"bob: {BOB} two"], "6: cluster.secrets.admins.bob: is the recipient of anna already"),
        ([f"Anna: {ANNA}"], "5: cluster.secrets.admins.Anna: does not have the form"),
        ([f"node2: {ANNA}"], "5: cluster.secrets.admins.node2: node2 is the name of a node"),
        (["anna: 5"], "5: cluster.secrets.admins.anna: must be text"),
        (["anna: ssh-rsa AAAA"], "5: cluster.secrets.admins.anna: an SSH key of the type ssh-rsa; expected: age1…,"),
        ([f"anna: {BOB[:-4]}"], "5: cluster.secrets.admins.anna: damaged SSH public key"),
        ([f"anna: {ANNA[:-1]}q"], "5: cluster.secrets.admins.anna: damaged: the checksum"),
        ([f"anna: {CARL[:-1]}"], "5: cluster.secrets.admins.anna: damaged: the checksum"),
        ([f"anna: {WEAK}"], "5: cluster.secrets.admins.anna: not a usable recipient"),
        (["anna: alice@example.com"], "5: cluster.secrets.admins.anna: not a recipient; expected: age1…,"),
        (["anna: AGE-SECRET-KEY-1QQ"], "5: cluster.secrets.admins.anna: not a recipient"),
        (["- anna"], "4: cluster.secrets.admins: must be a mapping"),
    ],
)
def test_what_is_refused_names_its_line(lines: list[str], said: str) -> None:
    with pytest.raises(SmallkubeError) as refused:
        parsed(*lines)
    (line,) = str(refused.value).splitlines()
    assert said in line
    assert "SECRET" not in line


@given(st.text(max_size=80))
def test_any_text_is_a_recipient_or_refused(text: str) -> None:
    try:
        assert recipient(recipient(text)) == recipient(text)
    except ValueError as error:
        assert str(error)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 61), st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l"))
def test_a_changed_letter_is_found(secret: bytes, at: int, letter: str) -> None:
    text = age.new_identity()[1]
    for each in (text, age_plugin.recipient(secret)):
        place = len(each) - 1 - at % 40
        changed = each[:place] + letter + each[place + 1 :]
        assert recipient(each) == each
        if changed != each:
            with pytest.raises(ValueError, match="checksum"):
                recipient(changed)


def test_a_table_has_what_tells_them_apart() -> None:
    assert [short(each) for each in (ANNA, BOB)] == ["age1ql3z7hjy54p…mcac8p", "ssh-ed25519 AAA…0Zd9Rr"]


TEXTS = (
    "# ours\ncluster:\n  name: test # the name\n  # the end\nnodes: # all\n  node1: {peer_ip: 192.168.0.1}\n",
    "cluster:\n    name: test\n    secrets:\n        encrypted_resources: [secrets] # all\n\n# nodes\n" + NODES,
    "cluster:\n  name: test\n  secrets: {encrypted_resources: [secrets]} # few\n" + NODES,
    "cluster: {name: test} # short\n" + NODES,
    'cluster: {"name": "test", "secrets": {"encrypted_resources": ["secrets"]}}\n' + NODES,
)


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


@pytest.mark.parametrize("text", [*TEXTS, *(text.replace("\n", "\r\n") for text in TEXTS)])
def test_an_edit_changes_nothing_else(text: str) -> None:
    both = add_admin(add_admin(text, "anna", ANNA), "bob", BOB)
    changed = change_admin(both, "bob", CARL)
    alone = remove_admin(changed, "anna")
    expected = [{"anna": ANNA, "bob": BOB}, {"anna": ANNA, "bob": CARL}, {"bob": CARL}]
    for edited, wanted in zip((both, changed, alone), expected, strict=True):
        found = load.parse(edited, Path("inventory.yaml"))
        assert found.cluster.secrets.admins == wanted
        assert comments(edited) == comments(text)
        assert ("\r\n" in edited) == ("\r\n" in text)
    assert remove_admin(both, "bob") == add_admin(text, "anna", ANNA)


def test_comments_go_with_their_administrator() -> None:
    lines = f"      anna: {ANNA} # A\n      # of bob\n      bob: {CARL}\n"
    text = f"cluster:\n  name: t\n  secrets:\n    admins:\n{lines}{NODES}"
    assert remove_admin(text, "bob") == text.replace(f"      # of bob\n      bob: {CARL}\n", "")
    assert remove_admin(text, "anna") == text.replace(f"      anna: {ANNA} # A\n", "")


def test_the_last_one_is_not_cut() -> None:
    text = f"cluster:\n  name: t\n  secrets:\n    admins:\n      anna: {ANNA}\n{NODES}"
    with pytest.raises(SmallkubeError, match=r"can't edit cluster\.secrets\.admins in this layout"):
        remove_admin(text, "anna")


def test_names_that_share_a_recipient_are_found() -> None:
    assert [*admins.shared({"a": ANNA, "b": CARL, "c": ANNA})] == [("c", "a")]
