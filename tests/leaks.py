"""Finding secrets where they must not be: in what programs were started with, in what they wrote, in files.

A canary is a text that nothing but a secret contains. A task runs under strace, which records each program that it or
a child starts, with arguments and environment, and each write, to whatever it is.
"""

import ast
import base64
import os
import re
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from smallkube.core.workspace import Workspace
from smallkube.inventory.admins import key_of
from smallkube.secrets import age, age_identities, kinds

MASTER = "master_key"
OWN_KEYS = ("ssh_key", "backup_key")
"""In .smallkube: private keys of the operator's machine, of which ssh_key is the lab's."""
_STARTS = ("execve", "execveat")
_WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendto", "sendmsg", "sendmmsg")
_COPIES = ("copy_file_range", "sendfile", "splice", "tee", "vmsplice")
STRACE = (
    *("strace", "--follow-forks", "--seccomp-bpf", "--quiet=all", "--signal=none"),
    *(
        "--no-abbrev",
        "--decode-fds=path",
        f"--string-limit={1 << 24}",
        f"--trace={','.join((*_STARTS, *_WRITES, *_COPIES))}",
    ),
    f"--inject={','.join(_COPIES)}:error=ENOSYS",
)
"""Before the command: ``--output=FILE``. Programs that would copy inside the kernel, unseen, must read and write."""
_CALL = re.compile(rb"^\d+ +(\w+)\((?:\d+<((?:[^>\\]|\\.)*)>)?")
_TEXT = re.compile(rb'"((?:[^"\\]|\\.)*)"(\.\.\.)?')


@dataclass
class Canaries:
    """Texts by which each secret is recognised, by its name; those of a secret that was replaced stay."""

    texts: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))

    def add(self, name: str, plaintext: bytes) -> None:
        for core in _cores(plaintext):
            self.texts[name] |= set(_encodings(core))

    def read(self, workspace: Workspace) -> None:
        """Add what the workspace holds now: every *.age, the identities, the keys for SSH and for backups."""
        for name in OWN_KEYS:
            if (path := workspace.state_dir / name).exists():
                self.add(name, path.read_bytes())
        if not workspace.master_key.exists():
            return
        master = age.parse_master(workspace.master_key.read_text(), MASTER)
        for identity in master.identities:
            assert isinstance(identity, age_identities.NativeIdentity)
            self.add(MASTER, str(identity.key).encode())
            self.add(MASTER, key_of(str(identity.key).removeprefix("AGE-SECRET-KEY-1")))
        for path in workspace.keys_dir.glob("*.age"):
            self.add(path.name.removesuffix(".age"), age.decrypt(path.read_bytes(), master, path.name))

    def found(self, data: bytes) -> set[str]:
        """The names of the secrets in ``data``."""
        return {name for name, texts in self.texts.items() if any(text in data for text in texts)}

    def patterns(self) -> bytes:
        """The texts for `grep --fixed-strings`, one a line."""
        every = {text for texts in self.texts.values() for text in texts}
        return b"\n".join(sorted(text for text in every if not set(b"\n\0") & set(text)))


def _cores(plaintext: bytes) -> Iterator[bytes]:
    """What is secret in a secret: of a PEM file the private number, of a configuration its keys."""
    if b"OPENSSH PRIVATE KEY-----" in plaintext:
        ssh_key = load_ssh_private_key(plaintext, None)
        assert isinstance(ssh_key, Ed25519PrivateKey)
        yield ssh_key.private_bytes_raw()
    elif b"PRIVATE KEY-----" in plaintext:
        key = load_pem_private_key(plaintext, None)
        assert isinstance(key, EllipticCurvePrivateKey)
        yield key.private_numbers().private_value.to_bytes(32)
        yield plaintext.splitlines()[1]
    elif b"kind: EncryptionConfiguration" in plaintext:
        yield from (secret.encode() for _, secret in kinds.encryption_keys(plaintext))
    else:
        yield plaintext.strip()


def _encodings(core: bytes) -> Iterator[bytes]:
    yield core
    yield core.hex().encode()
    # Where it is in the middle of what is encoded, its first and last letters depend on what is around it.
    yield from (base64.b64encode(bytes(shift) + core)[4 if shift else 0 : -4] for shift in range(3))
    if len(core) == 44 and core.endswith(b"="):
        yield from _encodings(base64.b64decode(core))


@dataclass(frozen=True)
class Allowed:
    """The secrets ``names`` (a regular expression) may be written to what matches ``where``, because of ``reason``."""

    where: str
    names: str
    reason: str

    def covers(self, place: str, name: str) -> bool:
        return bool(re.search(self.where, place) and re.fullmatch(self.names, name))


KUBECONFIG = Allowed(r"/\.smallkube/(\.tmp-)?kubeconfig", "kube_token_root", "the operator asked for it; mode 0600")
KEPT = (
    Allowed(r"/keys/(\.tmp-)?master_key", MASTER, "where the identities are kept, 0600"),
    Allowed(r"/\.smallkube/ssh_key$", "ssh_key", "where it is kept, 0600"),
    Allowed(r"/\.smallkube/(\.tmp-)?backup_key", "backup_key", "where it is kept, 0600"),
)
"""On the operator's machine."""


@dataclass(frozen=True)
class Trace:
    """What strace wrote: the words and environment of each program, and all that went to each place, in order."""

    started: Sequence[Sequence[bytes]]
    written: Mapping[str, bytes]

    @classmethod
    def read(cls, file: Path) -> "Trace":
        started: list[list[bytes]] = []
        written: defaultdict[str, bytearray] = defaultdict(bytearray)
        for line in file.read_bytes().splitlines():
            call = _CALL.match(line)
            if not call:
                continue
            texts = _TEXT.findall(line)
            assert not any(cut for _, cut in texts), "strace cut a text"
            name = call[1].decode()
            if name in _STARTS:
                started.append([_unescaped(text) for text, _ in texts])
            elif name in _WRITES:
                place = _unescaped(call[2] or b"?").decode(errors="replace")
                written[place] += b"".join(_unescaped(text) for text, _ in texts)
        return cls(started, {place: bytes(data) for place, data in written.items()})

    def leaks(self, canaries: Canaries, allowed: Iterable[Allowed] = ()) -> list[str]:
        """Which secret was where; what is ``allowed`` is left out."""
        distinct = {word: canaries.found(word) for word in {word for words in self.started for word in words}}
        found = [
            f"{name} in the arguments or the environment of {words[0].decode(errors='replace')}"
            for words in self.started
            for name in sorted(set().union(*(distinct[word] for word in words)))
        ]
        seen = self.seen(canaries)
        found += [
            f"{name} written to {place}" for place, name in seen if not any(a.covers(place, name) for a in allowed)
        ]
        return list(dict.fromkeys(found))

    def seen(self, canaries: Canaries) -> list[tuple[str, str]]:
        """Each place to which a secret was written, and the secret."""
        return [(place, name) for place, data in self.written.items() for name in sorted(canaries.found(data))]


def _unescaped(text: bytes) -> bytes:
    if b"\\" not in text:
        return text
    data: bytes = ast.literal_eval(f'b"{text.decode("latin-1")}"')
    return data


def in_files(folder: Path, canaries: Canaries, allowed: Iterable[Allowed] = ()) -> list[str]:
    """Which secret is in which file below ``folder``, but for what is ``allowed``."""
    found = ((str(path), name) for path, name in secrets_in_files([folder], canaries))
    return [f"{name} is in {path}" for path, name in found if not any(a.covers(path, name) for a in allowed)]


def secrets_in_files(folders: Sequence[Path], canaries: Canaries, since: float = 0) -> Iterator[tuple[Path, str]]:
    """Each file below ``folders`` that holds a secret, and the secret; of files that changed ``since`` (Unix time)."""
    words = ["find", *map(str, folders), "-type", "f", "-newerct", f"@{since:.3f}", "-print0"]
    files = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    patterns = os.memfd_create("patterns")
    os.write(patterns, canaries.patterns())
    grep = ["grep", "--files-with-matches", "--null", "--text", "--fixed-strings", f"--file=/proc/self/fd/{patterns}"]
    argv = ["xargs", "--null", "--no-run-if-empty", *grep]
    try:
        environment = {**os.environ, "LC_ALL": "C"}
        done = subprocess.run(argv, input=files, capture_output=True, env=environment, pass_fds=(patterns,))
    finally:
        os.close(patterns)
    for path in sorted(Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name):
        yield from ((path, name) for name in sorted(canaries.found(path.read_bytes())))


@dataclass(frozen=True)
class Traced:
    """A command that ended: its exit status, and the files that were its standard output and error."""

    status: int
    stdout: Path
    stderr: Path
    trace: Trace


def traced(argv: Sequence[str], folder: Path, environment: Mapping[str, str], seconds: float = 600) -> Traced:
    """Run ``argv`` under strace; ``folder`` is made for what it prints and for the trace, which is removed."""
    folder.mkdir()
    trace, stdout, stderr = (folder / name for name in ("trace", "stdout", "stderr"))
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(
            [*STRACE, f"--output={trace}", *argv],
            env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(seconds)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    found = Trace.read(trace)
    trace.unlink()
    return Traced(status, stdout, stderr, found)


def available() -> bool:
    """Whether strace is installed and may trace here."""
    try:
        return subprocess.run([*STRACE, f"--output={os.devnull}", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
"""Of age's documentation."""
NOT_TRACED = {
    "init": "makes a workspace without keys/",
    "lab.up": "makes machines and a workspace without keys/",
    "lab.down": "removes machines; reads nothing in keys/",
    "lab.shell": "hands the terminal to a shell; reads nothing in keys/",
    "lab.kubernetes": "builds programs; reads nothing in keys/",
    "lab.addons": "builds programs and imports their images; reads nothing in keys/",
    "lab.conformance": "takes an hour; runs other tasks, which are traced, and cluster.conformance",
    "nodes.gc": "removes what later tests build with, so that only its dry run is traced; reads nothing in keys/",
    "nodes.reset": "removes what a machine has of the cluster; reads nothing in keys/ but the host key",
    "net.bench": "loads the network; reads nothing in keys/",
    "nodes.adopt": "reads a machine and writes nix/hosts; reads nothing in keys/ but the host key",
    "nodes.install": "gives the host key to nixos-anywhere; its own test looks for it in what is left",
    "cluster.conformance": "runs a program of others with the kubeconfig that it is given; reads nothing in keys/",
    "lab.prune": "removes images that other tests need, so that only its dry run is traced; reads nothing in keys/",
}
"""Tasks that are not run, and why."""
ON_MACHINES = {
    "deploy.plan deploy.status deploy.history net.check etcd.status tokens.status": 0,
    "nodes.exec -- hostname": 0,
    "nodes.logs systemd-networkd": 0,
    "nodes.gc --dry-run": 0,
    "cluster.support": 0,
    "etcd.backup --verbose": 0,
    "etcd.restore --yes --verbose": 0,
    # There is no API server that could refuse its certificates.
    "nodes.remove node2 --revoke --yes": 1,
    "keys.scan --yes keys.generate keys.rotate-wireguard --yes nix.render deploy": 0,
    "tokens.rotate --user root --yes --verbose": 0,
    "deploy.rollback --node node1 --yes --verbose": 0,
    "nodes.reboot --node node2 --yes --verbose": 0,
}
"""Tasks that tests/lab runs, in this order, and their exit status; a line may have several tasks."""
ON_CLUSTER = {
    "cluster.status cluster.report --json cluster.audit cluster.upgrade-check": 0,
    "cluster.smoke --image smallkube.lab/busybox:1 --pull-policy Never --skip egress": 0,
    "cluster.upgrade --yes --image smallkube.lab/busybox:1 --skip egress,pods,kubelet,network,dns,secrets": 0,
    "nodes.drain --node node2 --yes": 0,
    "nodes.uncordon --node node2": 0,
    "users.add alice --role view users.list --seen users.kubeconfig alice --key alice.key": 0,
    "users.remove alice --yes": 0,
    "encryption.rotate --yes": 0,
    "keys.rotate-issuer --yes --overlap 0": 0,
    "keys.rotate-certificates --all --node node2 --yes": 0,
    f"admins.add bob --recipient {RECIPIENT} admins.remove bob --yes --overlap 0": 0,
}
"""Those that tests/cluster runs, because they need an API server."""
ON_NEW_PRIMARY = "cluster.rebuild-primary --yes --json --host-key "
"""What tests/cluster/test_rebuild.py runs, with the fingerprint of the new machine."""
UNTIL_INTERRUPTED = "cluster.connect"
"""What tests/integration/test_tunnel.py traces, at a real sshd."""
