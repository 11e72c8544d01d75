"""An ephemeral etcd: its data and sockets in a folder, nothing on the network, ended with this process.

Its URLs are relative to its working directory: etcd binds the host part of a unix URL only, and a path in it would
become an abstract socket that every user can use (server/embed/etcd.go).
"""

import base64
import json
import re
import shutil
import subprocess  # it serves while the block runs
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smallkube.core import process
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.polling import wait_until
from smallkube.etcd import status

_PAGE = 2000
NAMES = ("etcd", "etcdctl", "etcdutl")


def find_programs(folder: Path | None, oldest: tuple[int, int]) -> dict[str, str]:
    """Name → path of etcd's programs, ``oldest`` (a minor) or newer, in ``folder``, else on PATH. Raises UsageError."""
    found = {
        name: str(Path(path).absolute())
        for name in NAMES
        if (path := shutil.which(name, path=str(folder) if folder else None))
    }
    where = str(folder) if folder else "PATH"
    hint = (
        f"install etcd {_text(oldest)} or newer (NixOS: nix-shell -p etcd; Debian 13 has 3.5: etcd-server and "
        "etcd-client), or name its folder with --etcd-dir"
    )
    for name, path in found.items():
        if (version := _version(path)) < oldest:
            raise UsageError(f"{name} is {_text(version)}; {_text(oldest)} or newer is needed", where=where, hint=hint)
    if missing := [name for name in NAMES if name not in found]:
        raise UsageError(f"{', '.join(missing)} not found, and needed for the drill", where=where, hint=hint)
    return found


@dataclass(frozen=True)
class EphemeralEtcd:
    """``seconds`` are for each request, and for its start."""

    folder: Path
    programs: Mapping[str, str]
    seconds: int

    def restore(self, snapshot: str) -> None:
        """Make its data from a snapshot in the folder; raises SmallkubeError."""
        argv = (self.programs["etcdutl"], "snapshot", "restore", snapshot, "--data-dir", "data")
        _run(*argv, seconds=3600, folder=self.folder)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Raises SmallkubeError when it does not start."""
        argv = [self.programs["etcd"], "--data-dir", "data", "--listen-peer-urls", "unix://peer"]
        argv += ["--listen-client-urls", "unix://grpc", "--advertise-client-urls", "http://localhost:2379"]
        argv += ["--unsafe-no-fsync"]
        with (self.folder / "log").open("wb") as log:
            etcd = process.start(
                argv,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=process.plain_environment(),
                preexec_fn=process.tie_to_us,  # we have no other threads then
            )
        try:
            self._wait(etcd)
            yield
        finally:
            etcd.kill()
            etcd.wait()

    def _wait(self, etcd: subprocess.Popen[bytes]) -> None:
        def missing() -> list[str]:
            try:
                self._ctl("get", "health", seconds=2)
            except SmallkubeError as error:
                if etcd.poll() is not None:
                    raise
                return [error.message]
            return []

        try:
            wait_until(missing, self.seconds, "no answer", interval=0.05)
        except SmallkubeError as error:
            log = (self.folder / "log").read_text(errors="replace")
            raise SmallkubeError(f"etcd does not start from it: {last_line(log)}") from error

    def status(self) -> status.Status:
        """Its own state."""
        return status.parse(self._ctl("endpoint", "status", "--write-out", "json"), self._ctl("alarm", "list"))

    def entries(self, first: bytes, *words: str) -> Iterator[tuple[bytes, bytes]]:
        """The keys that are alive from ``first`` on, with their values, page after page; ``words`` for etcdctl get."""
        options = ("--from-key", *words, "--limit", str(_PAGE), "--write-out", "json", "--")
        start, seen, more = first, b"", True
        while more:
            reply = json.loads(self._ctl("get", *options, start.decode(errors="surrogateescape")))
            for row in reply.get("kvs", ()):
                start = base64.b64decode(row["key"])
                if start != seen:  # which the previous page ended with
                    yield start, base64.b64decode(row.get("value", ""))
            seen, more = start, reply.get("more", False)

    def _ctl(self, *words: str, seconds: int | None = None) -> str:
        limit = seconds or self.seconds
        options = ("--endpoints", "unix:grpc", "--command-timeout", f"{limit}s")
        return _run(self.programs["etcdctl"], *options, *words, seconds=limit + 5, folder=self.folder)


def _run(*argv: str, seconds: float, folder: Path | None = None) -> str:
    name = Path(argv[0]).name
    done = process.run(argv, timeout=seconds, folder=folder, die_with_us=True)
    if done.stopped:
        raise SmallkubeError(f"{name} did not end within {seconds} s")
    if not done.ok:
        raise SmallkubeError(f"{name} failed: {last_line(done.stderr or done.stdout)}")
    return done.stdout


def last_line(log: str) -> str:
    """The message of the last line; etcd's own lines are JSON with "msg" and often "error"."""
    line = (log.strip().splitlines() or ["no message"])[-1]
    try:
        entry = json.loads(line)
        return ": ".join(str(entry[key]) for key in ("msg", "error") if entry.get(key))[:300]
    except (ValueError, AttributeError):
        return line[:300]


def _version(path: str) -> tuple[int, int]:
    try:
        output = _run(path, "--version" if path.endswith("etcd") else "version", seconds=20)
        major, minor = re.findall(r"(\d+)\.(\d+)\.\d+", output)[0]
    except (SmallkubeError, IndexError) as error:
        raise UsageError("does not report its version: is it etcd's?", where=path) from error
    return int(major), int(minor)


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
