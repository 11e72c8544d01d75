"""etcd on the primary: our scripts there, and its state, read by its own client over a socket for its group only."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from smallkube.core.errors import MALFORMED
from smallkube.etcd.record import Record
from smallkube.remote import fleet
from smallkube.remote.host import MAX_LINE, Command, Host
from smallkube.remote.scripts import Scripts

ENDPOINT = "unix:///run/etcd/grpc"
ENCRYPTION_CONFIGURATION = "/run/agenix/EncryptionConfiguration.yaml"
DEFAULT_QUOTA = 2 << 30
"""Bytes at which etcd refuses writes by default (--quota-backend-bytes, etcd.io/docs/v3.6/op-guide)."""
OLD = timedelta(hours=36)
"""The age from which the newest backup deserves a remark: one night was missed."""
SCRIPTS = Scripts(Path(__file__).with_name("scripts"))


@dataclass(frozen=True)
class Status:
    """Sizes in bytes; ``in_use`` is what a defragmentation would leave."""

    version: str
    revision: int
    size: int
    in_use: int
    quota: int
    term: int
    index: int
    leader: bool
    alarms: tuple[str, ...]
    errors: tuple[str, ...]


def read(primary: Host, seconds: int) -> Status:
    """Raises SmallkubeError when etcd gives no answer within ``seconds``."""
    reply, alarms = fleet.together(
        lambda: _ask(primary, seconds, "endpoint", "status", "--write-out", "json"),
        lambda: _ask(primary, seconds, "alarm", "list"),
    )
    try:
        return parse(reply, alarms)
    except MALFORMED as error:
        raise primary.error(f"unexpected output from etcdctl: {reply[:200]!r}") from error


def parse(reply: str, alarms: str) -> Status:
    """From what `etcdctl endpoint status` (JSON, which lacks what is zero) and `etcdctl alarm list` print.

    Raises what MALFORMED has when it is something else.
    """
    found: dict[str, Any] = json.loads(reply)[0]["Status"]
    return Status(
        version=str(found["version"]),
        revision=int(found["header"]["revision"]),
        size=int(found["dbSize"]),
        in_use=int(found["dbSizeInUse"]),
        quota=int(found.get("dbSizeQuota") or DEFAULT_QUOTA),
        term=int(found.get("raftTerm", 0)),
        index=int(found.get("raftIndex", 0)),
        leader=found.get("leader") == found["header"]["member_id"],
        alarms=tuple(sorted(set(re.findall(r"alarm:(.*\S)", alarms)))),
        errors=tuple(str(error)[:MAX_LINE] for error in found.get("errors", ())),
    )


def _ask(primary: Host, seconds: int, *words: str) -> str:
    limits = ("--dial-timeout", "5s", "--command-timeout", f"{seconds}s")
    result = primary.run(Command(("etcdctl", "--endpoints", ENDPOINT, *limits, *words), timeout=seconds + 10))
    if not result.ok:
        hint = "inv deploy.status shows the services of the machine"
        refused = re.findall(r'Error while dialing: ([^"\\]+)', result.stderr)
        raise primary.error(f"etcd does not answer: {refused[-1] if refused else result.last_line}", hint)
    return result.text


def problems(status: Status) -> Iterator[str]:
    """Why etcd is not healthy."""
    if not status.leader:
        yield "etcd has no leader"
    yield from (f"alarm {alarm}" for alarm in status.alarms)
    yield from (f"etcd reports: {error}" for error in status.errors)
    if status.size > status.quota * 4 // 5:
        yield f"the database has {status.size >> 20} of at most {status.quota >> 20} MiB"


def remarks(newest: Record | None, now: datetime) -> Iterator[str]:
    """What else deserves attention, and no more than that: backups may be taken elsewhere, too."""
    if newest is None:
        yield "no signed backup found (inv etcd.backup)"
    elif newest.time > now + OLD:
        yield f"the newest backup here is dated in the future: {newest.created}"
    elif now - newest.time > OLD:
        yield f"the newest backup here is of {newest.created}"
