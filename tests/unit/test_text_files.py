"""Text as other editors, shells and systems write it: BOM, CRLF, and where only Python ends a line."""

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.core.errors import split_lines
from smallkube.core.workspace import REPOSITORY, Workspace
from smallkube.etcd import signature, status
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.operations import engine, master
from smallkube.secrets import age, audit, edit, peers, recipients, transaction
from smallkube.secrets.host_keys import load_hosts
from smallkube.smoke import probes
from smallkube.smoke.context import Probe
from tests.unit.fake_cluster import FakeCluster

SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
"""Where str.splitlines() ends a line and no editor does."""


def known(workspace: Workspace) -> list[Any]:
    """All that the text files of a workspace say."""
    cluster = Cluster(workspace, load(workspace.inventory_file))
    own = age.read_master(workspace)
    report = audit.check(cluster)
    return [
        cluster.inventory,
        own and own.recipients,
        age.read_recipient(workspace, own),
        load_hosts(cluster),
        peers.read(workspace),
        recipients.read_records(workspace),
        transaction.states(workspace),
        signature.signers(workspace),
        report.findings,
        report.problems,
    ]


def bom(text: bytes) -> bytes:
    return codecs.BOM_UTF8 + text


def crlf(text: bytes) -> bytes:
    return text.replace(b"\n", b"\r\n")


@pytest.mark.parametrize("change", [bom, crlf, lambda text: bom(crlf(text))], ids=["BOM", "CRLF", "both"])
def test_each_file_says_the_same_with_bom_and_crlf(cluster: FakeCluster, change: Callable[[bytes], bytes]) -> None:
    workspace = cluster.workspace
    signature.signing_key(workspace)
    before = known(workspace)
    files = [path for path in workspace.root.rglob("*") if path.is_file() and path.suffix not in (".age", ".nix")]
    files = [path for path in files if path.name != ".gitignore" and "lock" not in path.name]
    assert {path.name for path in files} >= {
        "inventory.yaml",
        "master_key",
        "peers.json",
        "node1.pub",
        "backup_signers",
    }
    for path in files:
        path.write_bytes(change(path.read_bytes()))
        assert known(workspace) == before, path.name


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_private_key_in_keys_is_found(cluster: FakeCluster, encoding: str) -> None:
    text, _ = age.new_identity()
    (cluster.workspace.keys_dir / "copy.txt").write_bytes(text.encode(encoding))
    found = [each.fault for each in audit.check(cluster.cluster).problems if each.file == "copy.txt"]
    assert "holds a private key in clear" in found


def test_a_rotated_master_key_has_no_bom_inside(cluster: FakeCluster) -> None:
    file = cluster.workspace.master_key
    file.write_bytes(bom(crlf(file.read_bytes())))
    with transaction.changing_keys(cluster.workspace):
        master.act(cluster.cluster, master.plan(cluster.cluster))
    both = age.read_master(cluster.workspace)
    assert both and len(both.recipients) == 2


def test_edited_secrets_have_neither_bom_nor_crlf(tmp_path: Path) -> None:
    editor = ["sh", "-c", r"printf '\357\273\277a: b\r\nc\r\n' > $1", "sh"]
    assert edit.run_editor(editor, [Path("/dev/shm")], "x", b"a: b\n") == b"a: b\nc\n"


@given(st.text(st.sampled_from("a# " + SEPARATORS)))
def test_a_comment_of_an_identity_file_is_one_line(comment: str) -> None:
    text, recipient = age.new_identity()
    for end in ("\n", "\r\n"):
        lines = f"# é {comment}{end}{text}# {comment}{end}"
        assert age.parse_master(lines, "keys/master_key").recipients == (recipient,)
        assert age.parse_master(master.first_identity(lines), "keys/master_key").recipients == (recipient,)


@given(st.lists(st.text(st.sampled_from("ab " + SEPARATORS))), st.sampled_from(["\n", "\r\n"]))
def test_lines_end_at_lf_and_crlf_only(lines: list[str], end: str) -> None:
    assert split_lines("".join(f"{line}{end}" for line in lines)) == lines
    assert split_lines(end.join([*lines, "a"])) == [*lines, "a"]


@pytest.mark.parametrize("separator", SEPARATORS)
def test_an_answer_does_not_end_a_line_within_a_value(separator: str) -> None:
    entry = {"__REALTIME_TIMESTAMP": "7", "MESSAGE_ID": min(engine._DOWN), "MESSAGE": f"é{separator}x"}
    up = {"__REALTIME_TIMESTAMP": "3000007", "MESSAGE_ID": engine._UP}
    outage = engine.Outage()
    outage.add("".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in (entry, up)))
    assert (outage.restarts, outage.seconds) == (1, 3.0)
    asked = [Probe("node1", "a", ("x",)), Probe("node1", "b", ("x",))]
    assert probes.parse(asked, f"0 refused{separator}1 ok")[asked[1]] == "no answer"
    header = {"member_id": 1, "revision": 1}
    reply = [{"Status": {"header": header, "version": "3.6.6", "dbSize": 1, "dbSizeInUse": 1}}]
    found = status.parse(json.dumps(reply), f"memberID:1 alarm:NO{separator}alarm:NOSPACE\n")
    assert found.alarms == (f"NO{separator}alarm:NOSPACE",)


MESSAGES = {
    "cli/deploy.py": "diffs",
    "cli/nodes.py": "output for the terminal",
    "core/errors.py": "its own documentation",
    "core/files.py": "diffs",
    "deploy/node_log.py": "the end of a log",
    "etcd/ephemeral.py": "the last line of a log",
    "kube/members.py": "errors of kubectl",
    "nix/build.py": "the last line of ssh",
    "nix/bundle.py": "bytes, which end at CR and LF only",
    "nix/check.py": "complaints of checkers",
    "nix/flake.py": "errors of Nix",
    "operations/certificates.py": "errors of curl",
    "remote/host.py": "the last line of a command",
    "remote/openssh.py": "errors of ssh",
    "smoke/control.py": "errors of curl",
    "smoke/pods.py": "output of kubectl for the report",
}
"""Where splitlines() splits what is only shown."""


def test_only_messages_are_split_as_python_does() -> None:
    folder = REPOSITORY / "smallkube"
    users = [
        path
        for path in folder.rglob("*.py")
        if ".splitlines(" in path.read_text() or "splitlines()" in path.read_text()
    ]
    assert {str(path.relative_to(folder)) for path in users} == set(MESSAGES)
