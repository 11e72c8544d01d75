"""The primary as backups see it: our scripts on it, and where etcd and its data are (nix/modules/etcd.nix)."""

from functools import cache
from pathlib import Path

from smallkube.remote.command import Command

ENDPOINT = "unix:///run/etcd/grpc"
DATA_DIR = "/var/lib/etcd"
SPOOL = "/var/lib/smallkube/snapshots"
ENCRYPTION_CONFIGURATION = "/run/agenix/EncryptionConfiguration.yaml"
_SCRIPTS = Path(__file__).with_name("scripts")


def script(name: str, *arguments: str, timeout: float = 60.0, hold: bool = False) -> Command:
    """One of our scripts, which need not be there; with ``hold`` it ends with the connection."""
    argv = ("/bin/sh", "-c", _text(name), name, *arguments)
    if hold:
        argv = ("/bin/sh", "-c", _text("hold"), "hold", *argv)
    return Command(argv, timeout=timeout, hold=hold, title=name)


@cache
def _text(name: str) -> str:
    return (_SCRIPTS / f"{name}.sh").read_text()
