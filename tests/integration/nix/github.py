"""A stand-in for GitHub that real Nix fetches inputs from: a proxy that answers for every host by itself.

As Nix asks (src/libfetchers/github.cc): ``api.github.com/repos/OWNER/REPO/commits/REF`` says which revision a branch
has, and ``github.com/OWNER/REPO/archive/REVISION.tar.gz`` is its content; older ones ask for
``api.github.com/repos/OWNER/REPO/tarball/REVISION``. Whatever else is asked for is not found.
"""

import io
import json
import re
import ssl
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOSTS = ("github.com", "api.github.com", "cache.nixos.org")
WRITTEN = datetime(2026, 11, 20, 12, tzinfo=UTC)
"""The time of every file, which Nix takes as that of the revision."""


_BRANCH = r"api\.github\.com/repos/([^/]+/[^/]+)/commits/(.+)"
_CONTENT = (
    r"(?:api\.github\.com/repos/([^/]+/[^/]+)/tarball|github\.com/([^/]+/[^/]+)/archive)/([0-9a-f]{40})(?:\.tar\.gz)?"
)


@dataclass
class GitHub:
    """``branches``: OWNER/REPO/REF → revision; ``folders``: OWNER/REPO/REVISION → what is in it.

    ``asked``: what was asked for since it was emptied: a key of these, or HOST/PATH of what there is not.
    """

    branches: dict[str, str] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    environment: Mapping[str, str] = field(default_factory=dict)

    def add(self, repository: str, revision: str, folder: Path, branch: str = "HEAD") -> None:
        """``folder`` is ``revision``, which is the newest of ``branch``."""
        self.branches[f"{repository}/{branch}"] = revision
        self.folders[f"{repository}/{revision}"] = folder

    def taken(self) -> list[str]:
        """What was asked for since the last call, each once."""
        found, self.asked = sorted(set(self.asked)), []
        return found

    def answer(self, host: str, path: str) -> bytes | None:
        """None for what there is not."""
        asked = re.fullmatch(_BRANCH, host + path) or re.fullmatch(_CONTENT, host + path)
        what = "/".join(filter(None, asked.groups())) if asked else host + path
        self.asked.append(what)
        if revision := self.branches.get(what):
            return json.dumps({"sha": revision}).encode()
        return archive(self.folders[what]) if what in self.folders else None


def archive(folder: Path) -> bytes:
    """The folder as GitHub packs it: below one folder of any name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for path in (folder, *sorted(folder.rglob("*"))):
            member = tar.gettarinfo(path, f"packed/{path.relative_to(folder)}")
            member.mtime = int(WRITTEN.timestamp())
            tar.addfile(member, io.BytesIO(path.read_bytes()) if path.is_file() else None)
    return out.getvalue()


class Handler(BaseHTTPRequestHandler):
    """A connection to the proxy: CONNECT, and then what is asked of that host."""

    protocol_version = "HTTP/1.1"
    host = ""
    github: GitHub
    tls: ssl.SSLContext

    def do_CONNECT(self) -> None:
        self.host = self.path.removesuffix(":443")
        self.send_response(200)
        self.end_headers()
        self.connection = self.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)

    def do_GET(self) -> None:
        content = self.github.answer(self.host, self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content or b"")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[GitHub]:
    """GitHub while the block runs, for programs with its ``environment``; its certificate is in ``folder``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = _certificate(folder / "github.pem")
    context.load_cert_chain(authority)
    github = GitHub()
    handler = type("Serving", (Handler,), {"github": github, "tls": context})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    proxy = f"http://127.0.0.1:{server.server_port}"
    names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy")
    github.environment = {**dict.fromkeys(names, proxy), "NIX_SSL_CERT_FILE": str(authority), "no_proxy": ""}
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield github
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _certificate(file: Path) -> Path:
    """A self-signed certificate for HOSTS with its key in ``file``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    now = datetime.now(UTC)
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(signed.public_bytes(encoding) + private)
    return file
