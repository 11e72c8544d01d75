"""Real etcd servers on sockets in a folder, of the versions that are supported; nothing of them listens elsewhere."""

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import lab.etcd
from lab import image
from lab.cluster import check_prerequisites
from lab.places import Places
from smallkube.core.errors import SmallkubeError

VERSIONS = ("3.5", "3.6")
PROGRAMS = ("etcd", "etcdctl", "etcdutl")
SECRET = b"k8s:enc:secretbox:v1:key1:"


@cache
def programs(version: str) -> Path | None:
    """A folder with etcd, etcdctl and etcdutl of this minor version: the lab has Debian's 3.5 and a built 3.6."""
    cache = Places.find(os.environ).cache
    if version == "3.5":
        try:
            check_prerequisites()
            image.ensure(cache, lambda _: None)
        except SmallkubeError:
            pass  # then what is on PATH has to do
    own = [Path(path).parent for path in (shutil.which("etcdutl"),) if path]
    return next((folder for folder in (*own, *lab.etcd.folders(cache)) if _minor(folder) == version), None)


def _minor(folder: Path) -> str:
    found = version(folder) if all((folder / name).is_file() for name in PROGRAMS) else ""
    return ".".join(found.split(".")[:2])


def version(folder: Path) -> str:
    """Of the programs in ``folder``, such as 3.6.6; "" when they do not run here."""
    output = subprocess.run([folder / "etcdutl", "version"], capture_output=True, text=True).stdout
    return output.split()[2] if output else ""


class _Socket(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


@dataclass
class Etcd:
    """etcd with its data and sockets in ``folder`` (a short path: sockets have at most 107 bytes).

    ``programs`` may hold much else that is not for this machine: ``bin`` links to what belongs to etcd.
    """

    folder: Path
    programs: Path
    data: str = "data"
    quota: int = 8 << 30
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def endpoint(self) -> str:
        return f"unix://{self.folder}/grpc"

    @property
    def path(self) -> str:
        """A PATH on which its own programs come first."""
        return f"{self.bin}:{os.environ['PATH']}"

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @contextmanager
    def running(self) -> Iterator["Etcd"]:
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def start(self) -> None:
        self.bin.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in PROGRAMS:
            if not (self.bin / name).is_symlink():
                (self.bin / name).symlink_to(self.programs / name)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.argv(self.data), cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        try:
            self._await_health()
        except BaseException:
            self.stop()
            raise

    def argv(self, data: str) -> list[str]:
        return [
            str(self.programs / "etcd"),
            *("--data-dir", data, "--listen-peer-urls", "unix://peer"),
            *("--listen-client-urls", self.endpoint),
            *("--listen-client-http-urls", f"unix://{self.folder}/http"),
            *("--advertise-client-urls", "http://localhost:2379", "--unsafe-no-fsync"),
            *("--quota-backend-bytes", str(self.quota)),
        ]

    def _await_health(self) -> None:
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)

    def _answers(self) -> bool:
        """Whether it reads, of which it has to have a leader; etcdctl would compute for longer than etcd starts."""
        try:
            self.call("kv/range", {"key": "AA=="})
        except (OSError, http.client.HTTPException, AssertionError):
            return False
        return True

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(timeout=30)

    def ctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        argv = [str(self.programs / "etcdctl"), "--endpoints", self.endpoint, *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=check)

    def call(self, method: str, body: Mapping[str, Any]) -> Any:
        """One call of the gRPC gateway (https://etcd.io/docs/v3.6/dev-guide/api_grpc_gateway/)."""
        connection = _Socket(self.folder / "http")
        try:
            connection.request("POST", f"/v3/{method}", json.dumps(body))
            reply = connection.getresponse()
            text = reply.read()
            assert reply.status == 200, text
            return json.loads(text)
        finally:
            connection.close()

    def put(self, values: Mapping[str, bytes]) -> None:
        """Write all of ``values``, a hundred in a transaction."""
        rows = [
            {"requestPut": {"key": _base64(key.encode()), "value": _base64(value)}} for key, value in values.items()
        ]
        for start in range(0, len(rows), 100):
            self.call("kv/txn", {"success": rows[start : start + 100]})

    def fill(self) -> None:
        """Write until the quota is reached and NOSPACE is raised; most of it is history."""
        while self.ctl("put", "/registry/large", os.urandom(40_000).hex(), check=False).returncode == 0:
            pass

    def content(self) -> dict[str, str]:
        """Each key and value that is alive, in base64."""
        output = self.call("kv/range", {"key": "AA==", "range_end": "AA=="})
        return {row["key"]: row.get("value", "") for row in output.get("kvs", [])}

    @property
    def revision(self) -> int:
        return int(self.call("kv/range", {"key": "AA=="})["header"]["revision"])


def full(version: str, folder: Path, needs: Callable[[str, object, str], None]) -> Etcd:
    """One that was stopped with the alarm NOSPACE, and its snapshot in ``folder``/snapshot."""
    found = programs(version)
    needs("integration", found, f"etcd {version} with etcdctl and etcdutl")
    assert found
    etcd = Etcd(folder / "e", found, quota=1 << 20)
    with etcd.running():
        etcd.fill()
        etcd.ctl("snapshot", "save", str(folder / "snapshot"))
    return etcd


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def like_kubernetes(count: int = 20, size: int = 200) -> dict[str, bytes]:
    """Objects as the API server stores them; the Secrets are (as far as their beginning tells) encrypted."""
    values = {f"/registry/pods/default/pod-{number}": os.urandom(size) for number in range(count)}
    values |= {f"/registry/configmaps/default/map-{number}": b"k8s\x00" + os.urandom(size) for number in range(count)}
    return values | {f"/registry/secrets/default/s-{number}": SECRET + os.urandom(size) for number in range(count)}
