"""An etcd of our own in a folder: sockets there, nothing on the network, gone when we are.

Its URLs are relative to its working directory: etcd binds the host part of a unix URL only, and a path in it would
become an abstract socket that everybody can use (server/embed/etcd.go).
"""

import base64
import json
import subprocess  # it serves while the block runs
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallkube.core import process
from smallkube.core.errors import SmallkubeError
from smallkube.etcd.programs import Programs

_PAGE = 2000


@dataclass(frozen=True)
class EphemeralEtcd:
    """``seconds`` are for each question, and for its start."""

    folder: Path
    programs: Programs
    seconds: int

    def restore(self, snapshot: str) -> None:
        """Make its data from a snapshot in the folder; raises SmallkubeError."""
        self._run(self.programs.etcdutl, "snapshot", "restore", snapshot, "--data-dir", "data", seconds=3600)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Raises SmallkubeError when it does not start."""
        argv = [self.programs.etcd, "--data-dir", "data", "--listen-peer-urls", "unix://peer"]
        argv += ["--listen-client-urls", "unix://grpc", "--advertise-client-urls", "http://localhost:2379"]
        with (self.folder / "log").open("wb") as log:
            etcd = subprocess.Popen(
                [*argv, "--unsafe-no-fsync"],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=process.plain_environment(),
                preexec_fn=process.tie_to_us,  # noqa: PLW1509 - we have no other threads then
            )
        try:
            self._await(etcd)
            yield
        finally:
            etcd.kill()
            etcd.wait()

    def _await(self, etcd: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self.seconds
        while True:
            try:
                self._ctl("endpoint", "health", seconds=2)
            except SmallkubeError:
                if etcd.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / "log").read_text(errors="replace")
                    raise SmallkubeError(f"etcd does not start from it: {last_line(log)}") from None
                time.sleep(0.05)
            else:
                return

    @property
    def revision(self) -> int:
        return int(
            json.loads(self._ctl("endpoint", "status", "--write-out", "json"))[0]["Status"]["header"]["revision"]
        )

    def names(self) -> Iterator[str]:
        """All keys that are alive."""
        for row in self._pages("", "--from-key", "--keys-only"):
            yield base64.b64decode(row["key"]).decode(errors="replace")

    def values(self, prefix: str) -> Iterator[bytes]:
        """The values of all keys that begin with ``prefix``."""
        for row in self._pages(prefix, "--from-key"):
            if not base64.b64decode(row["key"]).startswith(prefix.encode()):
                return
            yield base64.b64decode(row.get("value", ""))

    def _pages(self, first: str, *words: str) -> Iterator[dict[str, Any]]:
        last: str | None = None
        while True:
            start = first if last is None else base64.b64decode(last).decode(errors="surrogateescape")
            reply = json.loads(self._ctl("get", *words, "--limit", str(_PAGE), "--write-out", "json", "--", start))
            rows = [row for row in reply.get("kvs", ()) if row["key"] != last]
            yield from rows
            if not reply.get("more"):
                return
            last = rows[-1]["key"]

    def _ctl(self, *words: str, seconds: int | None = None) -> str:
        limit = seconds or self.seconds
        ask = (self.programs.etcdctl, "--endpoints", "unix:grpc", "--command-timeout", f"{limit}s")
        return self._run(*ask, *words, seconds=limit + 5)

    def _run(self, *argv: str, seconds: int) -> str:
        done = process.run(argv, timeout=seconds, folder=self.folder, die_with_us=True)
        if done.stopped:
            raise SmallkubeError(f"{Path(argv[0]).name} gave no answer within {seconds} s")
        if not done.ok:
            raise SmallkubeError(f"{Path(argv[0]).name} failed: {last_line(done.stderr or done.stdout)}")
        return done.stdout


def last_line(log: str) -> str:
    """What the last line means; etcd's own lines are JSON with "msg" and often "error"."""
    lines = log.strip().splitlines()
    if not lines:
        return "no message"
    try:
        entry = json.loads(lines[-1])
        return ": ".join(str(entry[key]) for key in ("msg", "error") if entry.get(key))[:300]
    except (ValueError, AttributeError):
        return lines[-1][:300]
