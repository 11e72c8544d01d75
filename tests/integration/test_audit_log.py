"""What `cluster.audit` finds in logs as the API server writes and rotates them, and what it shows of them."""

import gzip
import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from smallkube.cli import cluster
from smallkube.core.workspace import Workspace
from smallkube.inventory.load import load
from smallkube.kube import audit_log
from smallkube.remote import ssh
from smallkube.remote.fake import FakeHost
from smallkube.remote.host import Command, Result

pytestmark = pytest.mark.integration

BOB = {"username": "bob", "extra": {"authentication.kubernetes.io/credential-id": ["X509SHA256=0123456789abcdef"]}}
"""As the API server logs a user who showed a certificate."""
Audit = Callable[..., list[str]]


def event(identity: str, time: str, name: str = "root", verb: str = "create", **more: Any) -> str:
    """A line as kube-apiserver 1.34 writes it."""
    value = {
        "kind": "Event",
        "level": "Metadata",
        "auditID": identity,
        "stage": "ResponseComplete",
        "requestURI": "/api/v1/namespaces/shop/pods/web/exec?command=sh",
        "verb": verb,
        "user": {"username": name, "groups": ["system:masters"]},
        "sourceIPs": ["203.0.113.1", "fd88:1::1"],
        "userAgent": "kubectl/v1.34.2",
        "objectRef": {"resource": "pods", "subresource": "exec", "namespace": "shop", "name": "web"},
        "responseStatus": {"metadata": {}, "code": 201},
        "requestReceivedTimestamp": f"{time}.000000Z",
    }
    return json.dumps({**value, **more}) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log, a file that was rotated, and before that one that was compressed, too."""
    found = tmp_path / "log"
    found.mkdir()
    packed = found / "audit-2026-11-01T00-00-00.000.log.gz"
    packed.write_bytes(gzip.compress(event("a", "2026-11-01T00:00:00").encode()))
    rotated = found / "audit-2026-11-02T00-00-00.000.log"
    rotated.write_text(event("b", "2026-11-02T00:00:01") + event("c", "2026-11-02T00:00:02", "eve"))
    own = {"resource": "secrets", "namespace": "bank", "name": "gold"}
    (found / "audit.log").write_text(event("d", "2026-11-03T00:00:00", "eve", "get", objectRef=own))
    return found


def answer(folder: Path, command: Command) -> Result:
    """What a script says that runs here instead of on the primary."""
    argv = [word.replace("/var/log/kube-apiserver", str(folder)) for word in command.argv]
    done = subprocess.run(argv, capture_output=True, timeout=60)
    return Result(done.returncode, done.stdout, done.stderr.decode())


@pytest.fixture
def audit(
    folder: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Audit:
    """``audit(**flags)``: the days and users it finds; the script runs here instead of on the primary."""
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(workspace.root))

    def run(**flags: Any) -> list[str]:
        cluster.audit(Context(), **{"user": [], "verb": [], "namespace": [], "resource": [], "json": True, **flags})
        said = capsys.readouterr().out
        if not flags.get("json", True):
            return said.splitlines()
        return [f"{each['time'][8:10]} {each['user']}" for each in json.loads(said)]

    monkeypatch.setattr(ssh, "SshHost", lambda _, node: FakeHost(node, partial(answer, folder)))
    return run


def test_rotated_files_are_read_and_the_newest_is_last(audit: Audit) -> None:
    assert audit() == ["01 root", "02 root", "02 eve", "03 eve"]


def test_the_limit_leaves_the_newest(audit: Audit) -> None:
    assert audit(limit=2) == ["02 eve", "03 eve"]


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ({"user": ["eve"]}, ["02 eve", "03 eve"]),
        ({"user": ["eve,root"], "verb": ["create"]}, ["01 root", "02 root", "02 eve"]),
        ({"namespace": ["bank"]}, ["03 eve"]),
        ({"resource": ["pods"], "user": ["eve"]}, ["02 eve"]),
        ({"resource": ["pods/exec,secrets"], "user": ["eve"]}, ["02 eve", "03 eve"]),
        ({"resource": ["pods/log"]}, []),
        ({"user": ['"; halt'], "verb": ["$(halt)"]}, []),
    ],
)
def test_flags_select(flags: dict[str, Any], found: list[str], audit: Audit) -> None:
    assert audit(**flags) == found


def test_since_is_by_the_clock_of_the_machine(audit: Audit, folder: Path) -> None:
    with (folder / "audit.log").open("a") as log:
        log.write(event("e", subprocess.check_output(["date", "-u", "+%FT%T"], text=True).strip(), "late"))
    for file in folder.glob("audit-*"):
        os.utime(file, (1_700_000_000, 1_700_000_000))
    assert [each.split()[1] for each in audit(since="1h")] == ["late"]


def test_a_long_request_is_one_row(audit: Audit, folder: Path) -> None:
    began = event("long", "2026-11-04T00:00:00", stage="ResponseStarted")
    (folder / "audit.log").write_text(began + event("other", "2026-11-04T00:00:01", "eve") + began)
    assert audit(limit=2) == ["04 root", "04 eve"]


def test_broken_lines_are_left_out(audit: Audit, folder: Path) -> None:
    odd = '{"kind": "Ev\n\0\0\n[1]\nnull\n{"objectRef": "x", "requestReceivedTimestamp": "2027"}\n'
    (folder / "audit.log").write_text(odd + event("d", "2026-11-03T00:00:00") + odd)
    assert audit(limit=1) == ["03 root"]


def test_the_table_shows_the_peer_and_nothing_hostile(audit: Audit, folder: Path) -> None:
    path = "/\x1b]52;c;eA==\x07[red]\n"
    (folder / "audit.log").write_text(
        event("d", "2026-11-03T00:00:00", "bob", user=BOB, impersonatedUser={"username": "eve"})
        + event("e", "2026-11-03T00:00:01", "x" * 10_000, "get", objectRef=None, requestURI=path, responseStatus={})
    )
    head, first, second = audit(json=False, limit=2)
    assert head.split() == ["TIME", "USER", "CREDENTIAL", "VERB", "OBJECT", "CODE", "FROM"]
    assert (
        " ".join(first.split())
        == "2026-11-03 00:00:00 bob as eve X509SHA256=0123456789ab create pods/exec shop/web 201 fd88:1::1"
    )
    assert second.isprintable() and len(second) < 400


def test_a_cluster_without_a_log_gets_one_line(audit: Audit, folder: Path) -> None:
    (folder / "audit.log").unlink()
    with pytest.raises(Exit, match="it has no audit log yet; deploy to it: inv deploy --node node1") as end:
        audit()
    assert end.value.code == 2


@pytest.mark.parametrize("since", ["2", "h", "-2h", "0h", "2w", "1000000d", "2h\n"])
def test_an_unknown_time_is_refused(since: str, audit: Audit) -> None:
    with pytest.raises(Exit, match="expected a number and its unit") as end:
        audit(since=since)
    assert end.value.code == 2


def test_when_users_were_last_seen(folder: Path, workspace: Workspace) -> None:
    """A user whom others name in what they send was not seen by that."""
    agent = '"user":{"username":"mallory"'
    lines = event("e", "2026-11-04T00:00:00", "eve", userAgent=agent).replace(": ", ":")
    (folder / "audit.log").write_text(lines.replace(", ", ",") + '{"user":{"username":"eve"\n')
    packed = event("a", "2026-11-01T00:00:00", "old").replace(": ", ":").replace(", ", ",")
    (folder / "audit-2026-11-01T00-00-00.000.log.gz").write_bytes(gzip.compress(packed.encode()))

    primary = FakeHost(load(workspace.inventory_file).primary, partial(answer, folder))
    users = ["eve", "old", "mallory", "nobody", "$(halt)"]
    assert audit_log.last_seen(primary, users) == {
        "eve": "2026-11-04T00:00:00.000000Z", "old": "2026-11-01T00:00:00.000000Z",
    }  # fmt: skip
