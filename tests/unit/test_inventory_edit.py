"""Proves that adding and removing a node changes nothing else in the file, comments and quotes included."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from smallkube.core.errors import UsageError
from smallkube.inventory import positions
from smallkube.inventory.edit import add_node, remove_node

TEXT = """\
# our cluster
cluster:
  name: demo   # the name
  kubernetes: "1.34"
  addons: [a.yaml]
  network:
    open_to_pods:
      - 9100
nodes:
  node1: # the primary
    peer_ip: 192.168.0.1
  # the spare one
  node3:
    peer_ip: "192.168.0.3"
    checks:
      - [systemctl, is-active, sshd]
"""


def test_an_added_node_is_the_only_change() -> None:
    changed = add_node(TEXT, "node4", peer_ip="192.168.0.4")
    assert changed == TEXT + "  node4:\n    peer_ip: 192.168.0.4\n"


def test_an_ssh_host_is_written_when_it_differs() -> None:
    changed = add_node(TEXT, "node4", peer_ip="192.168.0.4", ssh={"host": "node4.example.com"})
    assert changed.endswith("  node4:\n    peer_ip: 192.168.0.4\n    ssh: {host: node4.example.com}\n")


def test_removing_what_was_added_restores_the_file() -> None:
    assert remove_node(add_node(TEXT, "node4", peer_ip="192.168.0.4"), "node4") == TEXT


def test_what_cannot_be_edited_is_refused() -> None:
    with pytest.raises(UsageError, match="in the inventory already"):
        add_node(TEXT, "node3", peer_ip="192.168.0.9")
    with pytest.raises(UsageError, match="no node 'node9'"):
        remove_node(TEXT, "node9")
    with pytest.raises(UsageError, match="the primary"):
        remove_node(TEXT, "node1")


COMMENTED = """\
nodes: # all of them
  # the first
  node1:
    peer_ip: 192.168.0.1   # of node1
    # end of node1

  # web machines

  # the second, {fast}
  node2: {peer_ip: 192.168.0.2} # of node2
  # the third
  node3:
    # its address
    peer_ip: 192.168.0.3
    checks:
      - - sh
        - |
          # no comment

    # end of node3
  # no node
cluster:
  name: demo
"""
SECOND = "  # the second, {fast}\n  node2: {peer_ip: 192.168.0.2} # of node2\n"
THIRD = COMMENTED[COMMENTED.index("  # the third") : COMMENTED.index("  # no node")]


def test_a_node_goes_with_its_own_comments() -> None:
    assert remove_node(COMMENTED, "node2") == COMMENTED.replace(SECOND, "")
    assert remove_node(COMMENTED, "node3") == COMMENTED.replace(THIRD, "")
    new = "  node4:\n    peer_ip: 192.168.0.4\n"
    assert add_node(COMMENTED, "node4", peer_ip="192.168.0.4") == COMMENTED.replace(THIRD, THIRD + new)


@pytest.mark.parametrize(
    ("text", "added", "removed"),
    [
        (
            "nodes: {node1: {a: 1}, node2: {a: 2}}",
            "nodes: {node1: {a: 1}, node2: {a: 2}, NEW}",
            "nodes: {node1: {a: 1}}",
        ),
        (
            "nodes: {node2: {a: 2}, node1: {a: 1},}",
            "nodes: {node2: {a: 2}, node1: {a: 1}, NEW,}",
            "nodes: {node1: {a: 1},}",
        ),
        (
            "nodes: {node1: {a: 1} # 1,\n, node2: {a: 2} # 2\n}",
            "nodes: {node1: {a: 1} # 1,\n, node2: {a: 2}, NEW # 2\n}",
            "nodes: {node1: {a: 1} # 1,\n # 2\n}",
        ),
        (
            "nodes: {node1: {a: 1}, # 1\n  node2: {a: 2}, # 2\n}",
            "nodes: {node1: {a: 1}, # 1\n  node2: {a: 2}, # 2\n  NEW,\n}",
            "nodes: {node1: {a: 1}, # 1\n}",
        ),
    ],
    ids=["one line", "trailing comma", "comma first", "lines"],
)
def test_nodes_in_braces_keep_their_layout(text: str, added: str, removed: str) -> None:
    new = "node4: {peer_ip: 192.168.0.4}"
    assert add_node(text, "node4", peer_ip="192.168.0.4") == added.replace("NEW", new)
    assert remove_node(added.replace("NEW", new), "node4") == text
    assert remove_node(text, "node2") == removed


def test_json_stays_json() -> None:
    changed = add_node('{"nodes": {"node1": {"peer_ip": "::1"}}}\n', "node2", peer_ip="::2", ssh={"host": "x"})
    assert changed == '{"nodes": {"node1": {"peer_ip": "::1"}, "node2": {"peer_ip": "::2", "ssh": {"host": "x"}}}}\n'


@pytest.mark.parametrize("value", ["a: b", "x # y", "1.5", "12:30", "fd00::", "no", "", "a\nnodes: {}", '"', "é", "~"])
def test_each_value_is_written_so_that_it_is_read(value: str) -> None:
    for text in (TEXT, "nodes: {node1: {a: 1}}\n"):
        changed = add_node(text, "node4", peer_ip=value, ssh={"host": f"{value}x"})
        nodes = positions.parse(changed, Path("x")).data["nodes"]
        assert nodes["node4"] == {"peer_ip": value, "ssh": {"host": f"{value}x"}}


@pytest.mark.parametrize(
    "text", ["nodes:\n  ? node1\n  : a: 1\n  ? node2\n  : a: 1\n", "nodes: {? node1 : {}, ? node2 : {}}\n"]
)
def test_a_layout_that_cannot_be_edited_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="edit it with an editor"):
        remove_node(text, "node2")


LAYOUTS = ["block", "braces", "lines of braces", "lines of braces, trailing comma", "JSON"]
WORDS = st.text(st.sampled_from("aé漢😀 #:,{}[]'\"|>-&*?"), max_size=8)
HEADINGS = st.lists(WORDS, max_size=2)


@dataclass(frozen=True)
class Entry:
    """A node with its comments: those ``above`` and ``below``, and one ``behind`` its value (None: there is none)."""

    number: int
    above: list[str]
    heading: list[str]
    behind: str | None
    below: list[str]

    def rows(self, layout: str, *, last: bool) -> list[str]:
        behind = "" if self.behind is None else f" # {self.behind}"
        headings = [f"  # {text}" for text in self.heading]
        headings += [""] if headings else []
        above, below = [f"  # {text}" for text in self.above], [f"    # {text}" for text in self.below]
        name = f"node{self.number}"
        if layout == "block":
            own = [f"  {name}:{behind}", f"    peer_ip: 10.0.0.{self.number}{behind}", *below]
        elif layout == "braces":
            own = [f"  {name}: {{peer_ip: 10.0.0.{self.number}}}{behind}", *below]
        else:
            quote, comma = '"' if layout == "JSON" else "", "" if last and "trailing" not in layout else ","
            value = f"{quote}{name}{quote}: {{{quote}peer_ip{quote}: {quote}10.0.0.{self.number}{quote}}}"
            own = [f"  {value}{comma}{behind}", *below]
        return [*headings, *above, *own]


ENTRY = st.builds(Entry, st.just(1), HEADINGS, HEADINGS, st.none() | WORDS, HEADINGS)


@dataclass(frozen=True)
class Layout:
    """How a file is written."""

    kind: str
    bom: str
    line_break: str
    ended: bool
    after: list[str]

    def text(self, entries: Sequence[Entry]) -> str:
        braces = self.kind not in ("block", "braces")
        rows = ["# first: {", "nodes: {" if braces else "nodes: # all"]
        for entry in entries:
            rows += entry.rows(self.kind, last=entry is entries[-1])
        rows += ["}"] if braces else []
        rows += self.after
        return self.bom + self.line_break.join(rows) + self.line_break * self.ended


AFTER = st.sampled_from(
    [[], ["# end"], ["", "cluster:", "  name: démo # the name"], ["  # end", "cluster: {name: demo}"]]
)
LAYOUT = st.builds(
    Layout,
    st.sampled_from(LAYOUTS),
    st.sampled_from(["", "\ufeff"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    AFTER,
)


@pytest.mark.parametrize("loader", [yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)])
def test_every_comment_stays_with_its_node(loader: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the layout: what is left or added is as if the file had been written so."""
    monkeypatch.setattr(positions, "_LOADER", loader)

    @given(LAYOUT, st.lists(ENTRY, min_size=2, max_size=4), st.data())
    def check(layout: Layout, made: list[Entry], data: st.DataObject) -> None:
        entries = [Entry(n, each.above, each.heading, each.behind, each.below) for n, each in enumerate(made, 1)]
        text = layout.text(entries)
        gone = data.draw(st.sampled_from(entries[1:]))
        left = layout.text([entry for entry in entries if entry is not gone])
        assert remove_node(text, f"node{gone.number}") == left if not gone.heading else True
        new = Entry(9, [], [], None, [])
        added = add_node(text, "node9", peer_ip="10.0.0.9")
        if layout.kind != "braces":
            assert added == layout.text([*entries, new])
        assert remove_node(added, "node9") == text

    check()


@given(st.text(st.sampled_from("\u2028\u2029\x85\r\ufeff"), min_size=1, max_size=1))
def test_line_breaks_of_other_rules_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="line break other than LF and CRLF"):
        positions.parse(f"nodes: # a{text}node9: 1\n", Path("x"))
