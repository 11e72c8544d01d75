"""Where the files of a workspace are."""

import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from smallkube.core.errors import UsageError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

STATE_FOLDER = ".smallkube"
IDENTITY = "SMALLKUBE_IDENTITY"
"""The environment variable that names an identity file to be used instead of keys/master_key."""
REPOSITORY = Path(__file__).resolve().parents[2]
"""The checkout this package runs from: home of the hand-written modules, add-ons and templates."""


def make_folder(folder: Path) -> None:
    """Make ``folder`` if need be; STATE_FOLDER, which has credentials, only for its owner and ignored by git."""
    for state in (folder, folder.parent):
        if state.name == STATE_FOLDER and not state.is_dir():
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            (state / ".gitignore").write_text("*\n")
    folder.mkdir(parents=True, exist_ok=True)


def expanded(path: str) -> Path:
    """``path`` with the home directory for ~. Raises UsageError when there is none, or no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError("no such home directory", where=path, hint="set HOME, or write the path out") from error


@cache
def _adapter(shape: Any) -> "TypeAdapter[Any]":
    """Made once: that takes longer than what it then does to a small file."""
    from pydantic import TypeAdapter

    return TypeAdapter(shape)


class _Inside:
    """A path inside the workspace."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __get__(self, workspace: "Workspace", _: object) -> Path:
        return workspace.root / self._path


class _Rendered(_Inside):
    """What `inv nix.render` and Nix write: of an in-between minor of an upgrade in a folder of its own."""

    def __get__(self, workspace: "Workspace", _: object) -> Path:
        return (workspace.between_dir / workspace.minor if workspace.minor else workspace.root) / self._path


@dataclass(frozen=True)
class Workspace:
    """A folder with ``inventory.yaml``, ``keys/`` and ``nix/``; the repository itself unless another is named.

    ``minor``: of Kubernetes, "1.35", when what is rendered and locked is that of an in-between step of an upgrade.
    """

    root: Path
    minor: str = ""

    inventory_file = _Inside("inventory.yaml")
    keys_dir = _Inside("keys")
    hosts_keys_dir = _Inside("keys/hosts")
    """SSH host public keys, one ``NODE.pub`` each."""
    master_key = _Inside("keys/master_key")
    """The age identity that reads every secret; mode 0600, never in git."""
    peers_file = _Inside("keys/peers.json")
    state_file = _Inside("keys/state.json")
    """An id for each change of keys/, newest first."""
    users_file = _Inside("keys/users.json")
    users_keys_dir = _Inside("keys/users")
    """Of each person: the certificate, and the key if it is for them alone."""
    recipients_file = _Inside("keys/recipients.json")
    exposed_file = _Inside("keys/exposed.json")
    """What an administrator who is being removed could read, and is not replaced yet."""
    secrets_nix = _Inside("keys/secrets.nix")
    nix_dir = _Inside("nix")
    hosts_dir = _Inside("nix/hosts")
    """The operator's own NixOS configuration of each machine; never overwritten."""
    rendered_dir = _Rendered("nix/rendered")
    flake_file = _Rendered("nix/flake.nix")
    flake_lock = _Rendered("nix/flake.lock")
    between_dir = _Inside(f"{STATE_FOLDER}/upgrade")
    """A folder for each in-between minor of an upgrade that is under way."""
    keys_change = _Inside(f"{STATE_FOLDER}/keys-change.json")
    """The journal of a change of keys/ that has not been completed."""
    verified_file = _Inside(f"{STATE_FOLDER}/inventory.json")
    """What inventory.check found valid last."""
    state_dir = _Inside(STATE_FOLDER)
    """Logs, locks and credentials of this machine; not tracked in git (``make_folder``)."""

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> "Workspace":
        """The workspace of ``SMALLKUBE_WORKSPACE``, else the repository.

        Raises UsageError when the folder named there does not exist.
        """
        named = environ.get("SMALLKUBE_WORKSPACE")
        root = expanded(named) if named else REPOSITORY
        if not root.is_dir():
            raise UsageError("no such folder", where=f"SMALLKUBE_WORKSPACE={named}", hint="name an existing workspace")
        return cls(root.resolve())

    @property
    def identity_file(self) -> Path:
        """The operator's identities: the file that SMALLKUBE_IDENTITY names, else keys/master_key."""
        named = os.environ.get(IDENTITY)
        return expanded(named).absolute() if named else self.master_key

    def nix_sources(self, name: str) -> Path:
        """``modules``, ``addons`` or ``templates``: the workspace's own in nix/, else the repository's."""
        own = self.nix_dir / name
        return own if own.is_dir() else REPOSITORY / "nix" / name

    def relative(self, path: Path) -> str:
        """``path`` relative to the workspace, where it is inside."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def read(self, path: str | Path) -> bytes | None:
        """The content of a file, None where there is none. Raises UsageError when it can't be read."""
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - a Path takes as long to make as the file to read
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"can't be read: {error.strerror}", where=self.relative(Path(path))) from error

    def read_json(self, path: Path, shape: type[T], hint: str) -> T | None:
        """The JSON in a file, as a ``shape`` (of pydantic's), None where there is none.

        Raises UsageError with the ``hint`` when it is something else.
        """
        from pydantic import ValidationError

        text = self.read_text(path)
        try:
            found: T | None = None if text is None else _adapter(cast(Hashable, shape)).validate_json(text, strict=True)
        except ValidationError as error:
            raise UsageError("damaged", where=self.relative(path), hint=hint) from error
        return found

    def read_text(self, path: Path) -> str | None:
        """The same of UTF-8 text, without its BOM. Raises UsageError also when it is none, and quotes nothing of it."""
        data = self.read(path)
        try:
            return None if data is None else data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UsageError("can't be read: not text", where=self.relative(path)) from None
