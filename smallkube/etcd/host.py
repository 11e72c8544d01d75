"""The primary as backups see it: our scripts on it, and where etcd and its data are (nix/modules/etcd.nix)."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from smallkube.remote.command import Command

ENDPOINT = "unix:///run/etcd/grpc"
DATA_DIR = "/var/lib/etcd"
SCRATCH = "/var/lib/smallkube/snapshots"
ENCRYPTION_CONFIGURATION = "/run/agenix/EncryptionConfiguration.yaml"
_PACKING_SECONDS = 600
_SCRIPTS = Path(__file__).with_name("scripts")


@dataclass(frozen=True)
class Source:
    """The etcd to save: ``scratch`` has the snapshot meanwhile, each question may take so many ``seconds``."""

    endpoint: str = ENDPOINT
    scratch: str = SCRATCH
    seconds: int = 300
    encryption_configuration: str = ENCRYPTION_CONFIGURATION


DEFAULT_SOURCE = Source()


def snapshot(source: Source) -> Command:
    """Take a snapshot and send it; it ends with the connection."""
    arguments = (source.endpoint, source.scratch, str(source.seconds), source.encryption_configuration)
    return script("snapshot", *arguments, timeout=2 * source.seconds + _PACKING_SECONDS, hold=True)


def script(name: str, *arguments: str, timeout: float = 60.0, hold: bool = False) -> Command:
    """One of our scripts, which need not be there; with ``hold`` it ends with the connection."""
    argv = ("/bin/sh", "-c", text(name), name, *arguments)
    if hold:
        argv = ("/bin/sh", "-c", text("hold"), "hold", *argv)
    return Command(argv, timeout=timeout, hold=hold, title=name)


@cache
def text(name: str) -> str:
    """What is in one of our scripts."""
    return (_SCRIPTS / f"{name}.sh").read_text()
