"""Where files are, and how files are written so that a crash can't leave half of one."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smallkube.core.errors import SmallkubeError, UsageError

REPOSITORY = Path(__file__).resolve().parents[2]
"""The checkout this package runs from: home of the hand-written modules, add-ons and templates."""

TEMPORARY_PREFIX = ".tmp-"


@dataclass(frozen=True)
class Workspace:
    """A folder with ``inventory.yaml``, ``keys/`` and ``nix/``; the repository itself unless another is named."""

    root: Path

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> "Workspace":
        """The workspace of ``SMALLKUBE_WORKSPACE``, else the repository.

        Raises UsageError when the folder named there does not exist.
        """
        named = environ.get("SMALLKUBE_WORKSPACE")
        root = Path(named).expanduser() if named else REPOSITORY
        if not root.is_dir():
            raise UsageError("no such folder", where=f"SMALLKUBE_WORKSPACE={named}", hint="name an existing workspace")
        return cls(root.resolve())

    @property
    def inventory_file(self) -> Path:
        return self.root / "inventory.yaml"

    @property
    def keys_dir(self) -> Path:
        return self.root / "keys"

    @property
    def hosts_keys_dir(self) -> Path:
        """SSH host public keys, one ``NODE.pub`` each."""
        return self.keys_dir / "hosts"

    @property
    def master_key(self) -> Path:
        """The age identity that reads every secret; mode 0600, never in git."""
        return self.keys_dir / "master_key"

    @property
    def peers_file(self) -> Path:
        return self.keys_dir / "peers.json"

    @property
    def secrets_nix(self) -> Path:
        return self.keys_dir / "secrets.nix"

    @property
    def recipients_file(self) -> Path:
        return self.keys_dir / "recipients.json"

    @property
    def nix_dir(self) -> Path:
        return self.root / "nix"

    @property
    def hosts_dir(self) -> Path:
        """The operator's own NixOS configuration of each machine; never overwritten."""
        return self.nix_dir / "hosts"

    @property
    def rendered_dir(self) -> Path:
        return self.nix_dir / "rendered"

    @property
    def flake_file(self) -> Path:
        return self.nix_dir / "flake.nix"

    @property
    def flake_lock(self) -> Path:
        return self.nix_dir / "flake.lock"

    @property
    def state_dir(self) -> Path:
        """Logs and locks of this machine; not tracked in git."""
        return self.root / ".smallkube"

    @property
    def modules_dir(self) -> Path:
        return self._own_or_repository("modules")

    @property
    def addons_dir(self) -> Path:
        return self._own_or_repository("addons")

    @property
    def templates_dir(self) -> Path:
        return self._own_or_repository("templates")

    def _own_or_repository(self, name: str) -> Path:
        own = self.nix_dir / name
        return own if own.is_dir() else REPOSITORY / "nix" / name

    def relative(self, path: Path) -> str:
        """``path`` relative to the workspace, where it is inside."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def read(self, path: Path) -> bytes | None:
        """The content of a file, None where there is none. Raises UsageError when it can't be read."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"can't be read: {error.strerror}", where=self.relative(path)) from error

    def read_text(self, path: Path) -> str | None:
        """The same of a text (UTF-8). Raises UsageError also when it is none, and quotes nothing of it."""
        data = self.read(path)
        try:
            return None if data is None else data.decode()
        except UnicodeDecodeError:
            raise UsageError("can't be read: not text", where=self.relative(path)) from None


def write_file(path: Path, data: bytes | str, mode: int = 0o644) -> bool:
    """Write ``data`` atomically: temporary file beside it, fsync, rename, fsync of the folder.

    The file has ``mode`` from the start, whatever the umask. Returns whether anything changed: a file that already
    has this content and mode is left alone. Raises SmallkubeError when the disk is full or the folder not writable.
    """
    content = data.encode() if isinstance(data, str) else data
    try:
        if path.is_file() and path.stat().st_mode & 0o7777 == mode and path.read_bytes() == content:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content, mode)
    except OSError as error:
        raise SmallkubeError(f"can't be written: {error.strerror}", where=str(path)) from error
    return True


def _replace(path: Path, content: bytes, mode: int) -> None:
    import tempfile  # slow to import, and only needed to write

    handle, name = tempfile.mkstemp(prefix=f"{TEMPORARY_PREFIX}{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_temporaries(folder: Path, name: str = "") -> None:
    """Remove what a killed ``write_file`` (of ``name``) left in ``folder``; only under the lock that guards it."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}{name}*"):
        leftover.unlink(missing_ok=True)


@contextmanager
def lock(path: Path, purpose: str) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (kept by the kernel: a killed process leaves nothing behind).

    Raises UsageError that names the holder's process when another one has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UsageError(
                f"{purpose}: already being done by {holder}", where=str(path), hint="wait until it has ended"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield
