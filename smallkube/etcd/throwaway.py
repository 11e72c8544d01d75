"""An etcd of our own in a folder: sockets there, nothing on the network, gone when we are.

Its URLs are relative to its working directory: etcd binds the host part of a unix URL only, and a path in it would
become an abstract socket that everybody can use (server/embed/etcd.go).
"""

import base64
import ctypes
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallkube.errors import SmallkubeError
from smallkube.etcd.programs import Programs

_PR_SET_PDEATHSIG = 1
_PAGE = 2000


@dataclass(frozen=True)
class Throwaway:
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
            process = subprocess.Popen(
                [*argv, "--unsafe-no-fsync"],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_us,  # noqa: PLW1509 - before we have threads
            )
        try:
            self._await(process)
            yield
        finally:
            process.kill()
            process.wait()

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self.seconds
        while True:
            try:
                self._ctl("endpoint", "health", seconds=2)
            except SmallkubeError:
                if process.poll() is not None or time.monotonic() > deadline:
                    lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
                    last = lines[-1][:300] if lines else "no message"
                    raise SmallkubeError(f"etcd does not start from it: {last}") from None
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
            said = json.loads(self._ctl("get", start, *words, "--limit", str(_PAGE), "--write-out", "json"))
            rows = [row for row in said.get("kvs", ()) if row["key"] != last]
            yield from rows
            if not said.get("more"):
                return
            last = rows[-1]["key"]

    def _ctl(self, *words: str, seconds: int | None = None) -> str:
        limit = seconds or self.seconds
        ask = (self.programs.etcdctl, "--endpoints", "unix:grpc", "--command-timeout", f"{limit}s")
        return self._run(*ask, *words, seconds=limit + 5)

    def _run(self, *argv: str, seconds: int) -> str:
        try:
            done = subprocess.run(
                argv,
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=seconds,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise SmallkubeError(f"{Path(argv[0]).name} gave no answer within {seconds} s") from error
        if done.returncode:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            last = lines[-1][:300] if lines else f"exit status {done.returncode}"
            raise SmallkubeError(f"{Path(argv[0]).name} {argv[1] if argv[1] == 'snapshot' else ''} failed: {last}")
        return done.stdout


def _die_with_us() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
