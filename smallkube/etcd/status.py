"""How etcd on the primary is: asked through its own client, over the socket that only its group may use."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from smallkube.core.errors import SmallkubeError
from smallkube.etcd import host
from smallkube.etcd.record import Record
from smallkube.remote.command import Command
from smallkube.remote.host import Host

DEFAULT_QUOTA = 2 << 30
"""Bytes at which etcd refuses writes unless told otherwise (--quota-backend-bytes, etcd.io/docs/v3.6/op-guide)."""
OLD = timedelta(hours=36)
"""The age from which a newest backup is worth a word: one night was missed."""


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
    reply = _ask(primary, seconds, "endpoint", "status", "--write-out", "json")
    alarms = _ask(primary, seconds, "alarm", "list")
    try:
        return parse(reply, alarms)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise SmallkubeError("etcdctl's answer can't be understood", where=primary.where) from error


def parse(status: str, alarms: str) -> Status:
    """From the output of `etcdctl endpoint status` in JSON, which lacks what is zero, and of `etcdctl alarm list`."""
    found: dict[str, Any] = json.loads(status)[0]["Status"]
    raised = [line.partition("alarm:")[2] for line in alarms.splitlines() if "alarm:" in line]
    return Status(
        version=found["version"],
        revision=found["header"]["revision"],
        size=found["dbSize"],
        in_use=found["dbSizeInUse"],
        quota=found.get("dbSizeQuota") or DEFAULT_QUOTA,
        term=found.get("raftTerm", 0),
        index=found.get("raftIndex", 0),
        leader=found.get("leader") == found["header"]["member_id"],
        alarms=tuple(raised),
        errors=tuple(found.get("errors", ())),
    )


def _ask(primary: Host, seconds: int, *words: str) -> str:
    limits = ("--dial-timeout", "5s", "--command-timeout", f"{seconds}s")
    result = primary.run(Command(("etcdctl", "--endpoints", host.ENDPOINT, *limits, *words), timeout=seconds + 10))
    if not result.ok:
        hint = "inv deploy.status says how the machine's services are"
        raise SmallkubeError(f"etcd does not answer: {result.last_line}", where=primary.where, hint=hint)
    return result.text


def problems(status: Status) -> Iterator[str]:
    """Why etcd is not well."""
    if not status.leader:
        yield "etcd has no leader"
    yield from (f"alarm {alarm}" for alarm in status.alarms)
    yield from (f"etcd reports: {error}" for error in status.errors)
    if status.size > status.quota * 4 // 5:
        yield f"the database has {status.size >> 20} of at most {status.quota >> 20} MiB"


def remarks(newest: Record | None, now: datetime) -> Iterator[str]:
    """What else deserves attention: backups may be taken elsewhere, too."""
    if newest is None:
        yield "there is no backup here (inv etcd.backup)"
    elif now - newest.time > OLD:
        yield f"the newest backup here is of {newest.created}"
