"""Off-site copies of the backups: missing ones are sent and read back, and the retention policy is applied."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import Workspace
from smallkube.etcd import signature
from smallkube.etcd.catalog import Catalog
from smallkube.etcd.record import RECORD_LIMIT, RECORD_SUFFIX, Record, parse
from smallkube.etcd.retention import kept
from smallkube.inventory.sections import Keep
from smallkube.remote.fleet import reason_of
from smallkube.remote.sftp import PART, Destination, Folder, folder


@dataclass(frozen=True)
class Copied:
    """What was done at one destination; ``error`` is "" when every sound backup is there.

    ``others``: files there that this machine has not signed and does not have, which stay.
    """

    destination: str
    sent: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    error: str = ""


def copy(workspace: Workspace, existing: Catalog, url: str, keep: Keep, step: Callable[[str], object]) -> Copied:
    """Bring the destination ``url`` up to date, also with backups of previous runs. Its failure is in the result."""
    sent: list[str] = []
    own = signature.public(signature.signing_key(workspace))
    mark = f".{hashlib.sha256(own.encode()).hexdigest()[:8]}"  # other operators copy at the same time
    try:
        destination = Destination.parse(url)
        with folder(workspace, destination) as there:
            sizes = there.sizes()
            for part in (name for name in sizes if name.endswith(mark + PART)):
                there.remove(part)  # of an interrupted copy: we have the lock
            for record in reversed(existing.sound):  # the newest first, should the connection break
                if sizes.get(record.file) != record.stored_size or record.record_file not in sizes:
                    step(f"copy {record.name} to {destination.host}")
                    _send(existing.folder, record, there, mark, sizes)
                    sent.append(record.name)
            return Copied(url, tuple(sent), *prune(there, existing, keep, (own,)))
    except SmallkubeError as error:
        return Copied(url, tuple(sent), error=reason_of(error))


def _send(source: Path, record: Record, there: Folder, mark: str, sizes: Mapping[str, int]) -> None:
    """The record first: it tells whose the file is that an interrupted copy leaves."""
    about, path = source / record.record_file, source / record.file
    if sizes.get(record.record_file) != about.stat().st_size:
        there.write(record.record_file, about, mark)
    if there.write(record.file, path, mark) != record.stored_sha256:
        there.remove(record.file)
        raise SmallkubeError(f"the copy of {record.name} differs from the original, and was removed")


def prune(
    there: Folder, existing: Catalog, keep: Keep, own: Collection[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Apply the retention policy there to what this machine has signed, except what is in our own folder.

    Returns the names of the removed backups, and of the files that are not ours: of another operator, or of an earlier
    version, which signed nothing. What a copy or removal of ours left unfinished is removed.
    """
    sizes, ours = there.sizes(), []
    clusters = {record.cluster for record in existing.records}
    for name in (name for name in sizes if name.endswith(RECORD_SUFFIX)):
        try:
            record = parse(there.read(name, RECORD_LIMIT), name)
            record = replace(record, signed=signature.is_signed(record, own))
        except (SmallkubeError, ValueError, PermissionError):
            continue  # not one of ours
        if name == record.record_file and record.signed and record.cluster in clusters:
            ours.append(record)
    whole = [record for record in ours if sizes.get(record.file) == record.stored_size]
    staying = {record.name for record in existing.records} | kept(whole, keep).keys()
    gone = [record for record in ours if record.name not in staying]
    for name in (name for record in gone for name in (record.file, record.record_file)):
        if name in sizes:
            there.remove(name)
    known = (*ours, *existing.records)
    others = sizes.keys() - {name for record in known for name in (record.file, record.record_file)}
    return tuple(record.name for record in gone), tuple(sorted(others))
