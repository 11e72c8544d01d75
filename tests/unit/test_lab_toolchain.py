"""Proves which Go builds Kubernetes for the lab, and that a fetched one is held against its checksum."""

import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import cache, toolchain
from smallkube.cli.bar import Bar
from smallkube.core.errors import SmallkubeError


def archive(**files: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return data.getvalue()


def go(folder: Path, answer: str) -> None:
    program = folder / "go"
    program.write_text(f"#!/bin/sh\necho {answer}\n")
    program.chmod(0o755)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bytes]:
    """A module proxy on loopback with an archive of a Go (named as such: its program is a script)."""
    tree = f"golang.org/toolchain@v0.0.1-go{toolchain.VERSION}.linux-amd64"
    packed = archive(**{f"{tree}/bin/go": "#!/bin/sh\necho go9.9\n", f"{tree}/LICENSE": "free"})

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.startswith("/golang.org/toolchain/@v/") else 404)
            self.send_header("Content-Length", str(len(packed)))
            self.end_headers()
            self.wfile.write(packed)

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GOPROXY", f"off,http://127.0.0.1:{server.server_port}/,direct")
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        monkeypatch.setattr(toolchain, "SUMS", {"x86_64": ("amd64", sum_of(packed))})
        (tmp_path / "bin").mkdir()
        yield packed
        server.shutdown()


def sum_of(packed: bytes) -> str:
    return toolchain.checksum(zipfile.ZipFile(io.BytesIO(packed)))


def test_the_checksum_is_that_of_the_sum_database() -> None:
    published = "h1:8wlg68NqwW7eMnI1aABk/C2pDYXj8mrMY4TyRfiLeS0="  # every golang.org/toolchain/go.mod
    assert sum_of(archive(**{"go.mod": "module golang.org/toolchain\n"})) == published


@pytest.mark.parametrize(("said", "own"), [("go1.26.8", True), ("go1.25", True), ("go1.19.8", False), ("", False)])
def test_the_own_go_is_used_if_new_enough(said: str, own: bool, served: bytes, tmp_path: Path) -> None:
    go(tmp_path / "bin", said)
    with Bar() as bar:
        found = toolchain.ensure(tmp_path, (1, 25), bar)
    assert found == (tmp_path / "bin/go" if own else tmp_path / f"go-{toolchain.VERSION}/bin/go")
    assert toolchain.version(str(found)) >= (1, 25), "it must be executable"
    assert not list(tmp_path.glob("go-building-*"))


def test_another_archive_is_refused_and_removed(served: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = f"h1:{hashlib.sha256(served).hexdigest()}"
    monkeypatch.setattr(toolchain, "SUMS", {"x86_64": ("amd64", wrong)})
    go(tmp_path / "bin", "go1.19")
    with pytest.raises(SmallkubeError, match="checksum"), Bar() as bar:
        toolchain.ensure(tmp_path, (1, 25), bar)
    assert {path.name for path in tmp_path.iterdir()} == {"bin", toolchain.LOCK}


def test_a_proxy_that_does_not_answer_is_named(served: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(tmp_path / "bin", "go1.19")
    monkeypatch.setenv("GOPROXY", "http://127.0.0.1:1")
    with pytest.raises(SmallkubeError, match=r"can't be fetched from http://127\.0\.0\.1:1/golang"), Bar() as bar:
        toolchain.ensure(tmp_path, (1, 25), bar)


@pytest.mark.parametrize(
    ("setting", "address"),
    [
        ("", toolchain.DEFAULT_PROXY),
        ("off", toolchain.DEFAULT_PROXY),
        ("direct", toolchain.DEFAULT_PROXY),
        ("https://proxy.example/go/|direct", "https://proxy.example/go"),
    ],
)
def test_the_first_proxy_of_the_setting_is_asked(setting: str, address: str) -> None:
    assert toolchain.proxy(setting) == address


def test_the_fetched_go_is_new_enough() -> None:
    assert tuple(map(int, toolchain.VERSION.split("."))) >= max(each.oldest_go() for each in cache.SETS)
