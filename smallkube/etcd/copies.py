"""Off-site copies of the backups: missing ones are sent and read back, and the retention policy is applied."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import Workspace
from smallkube.etcd import signature
from smallkube.etcd.catalog import Catalog
from smallkube.etcd.record import RECORD_SUFFIX, SUFFIX, Record, parse
from smallkube.etcd.retention import kept
from smallkube.inventory.models import Keep
from smallkube.remote.fleet import reason_of
from smallkube.remote.sftp import Destination, Folder, folder

_RECORD_LIMIT = 1 << 20


@dataclass(frozen=True)
class Copied:
    """What was done at one destination; ``error`` is "" when every sound backup is there."""

    destination: str
    sent: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    error: str = ""


def copy(workspace: Workspace, existing: Catalog, url: str, keep: Keep, step: Callable[[str], object]) -> Copied:
    """Bring the destination ``url`` up to date, also with backups of previous runs. Its failure is in the result."""
    sent: list[str] = []
    own = (signature.public(signature.signing_key(workspace)),)
    try:
        destination = Destination.parse(url)
        with folder(workspace, destination) as there:
            sizes = there.sizes()
            for record in reversed(existing.sound):  # the newest first, should the connection break
                if sizes.get(record.file) != record.stored_size or record.record_file not in sizes:
                    step(f"copy {record.name} to {destination.host}")
                    _send(existing.folder / record.file, record, there)
                    sent.append(record.name)
            return Copied(url, tuple(sent), tuple(prune(there, existing, keep, own)))
    except SmallkubeError as error:
        return Copied(url, tuple(sent), error=reason_of(error))


def _send(path: Path, record: Record, there: Folder) -> None:
    if there.write(record.file, path) != record.stored_sha256:
        there.remove(record.file)
        raise SmallkubeError(f"the copy of {record.name} differs from the original, and was removed")
    there.write(record.record_file, path.with_name(record.record_file))


def prune(there: Folder, existing: Catalog, keep: Keep, own: Collection[str]) -> list[str]:
    """Apply the retention policy there to what this machine has signed, except what is in our own folder.

    The others are those of another operator, or of an earlier version, which signed nothing.
    """
    sizes, ours = there.sizes(), []
    clusters = {record.cluster for record in existing.records}
    for name in (name for name in sizes if name.endswith(RECORD_SUFFIX)):
        try:
            record = parse(there.read(name, _RECORD_LIMIT), name)
            record = replace(record, signed=signature.is_signed(record, own))
        except (SmallkubeError, ValueError, PermissionError):
            continue  # not one of ours
        whole = name == record.record_file and sizes.get(record.file) == record.stored_size
        if whole and record.signed and record.cluster in clusters:
            ours.append(record)
    staying = {record.name for record in existing.records} | kept(ours, keep).keys()
    gone = [record.name for record in ours if record.name not in staying]
    for name in gone:
        there.remove(name + SUFFIX)
        there.remove(name + RECORD_SUFFIX)
    return gone
