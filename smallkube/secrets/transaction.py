"""The only writer of keys/: files that only make sense together change as one, by a redo journal.

The journal, one file written atomically, holds the new content of them all (ciphertext and public text only). Once it
is there the change has happened: the next command that takes the lock on keys/ completes it, however often it was
killed on the way. Until then none of it has. It also has the hashes of what it replaces: a journal left over while
keys/ went on (restored from git, say, or copied with the rest of the folder) is refused instead of undoing newer work.
"""

import base64
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.files import lock, remove_temporaries, sync, write_file, write_files
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, policy, recipients
from smallkube.secrets.keyring import Keyring, load_keyring, require_host_keys
from smallkube.secrets.policy import Secret
from smallkube.secrets.recipients import Finding, State

MAX_STATES = 500
IGNORED = """\
# The age identities that read every secret, and what a killed write leaves.
/master_key*
!/master_key.pub
.tmp-*
"""
_NAME = re.compile(r"((hosts|users)/)?(?!\.{1,2}$)[^/\0]+")


@dataclass(frozen=True)
class Keys:
    """Encrypted files and certificates (file name → bytes)."""

    files: Mapping[str, bytes]
    certificates: Mapping[str, bytes]


def read_keys(workspace: Workspace) -> Keys:
    """Everything in keys/ that is not the identity. Raises SmallkubeError on a file that can't be read."""
    folder = workspace.keys_dir
    found: dict[str, dict[str, bytes]] = {policy.SUFFIX: {}, ".crt": {}}
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():  # noqa: PTH208 - the same
        suffix = name[name.rfind(".") :]
        if suffix in found and not name.startswith("."):
            found[suffix][name] = workspace.read(f"{folder}/{name}") or b""
    return Keys(found[policy.SUFFIX], found[".crt"])


def states(workspace: Workspace) -> tuple[str, ...]:
    """An id for each of the last changes of keys/, newest first: a clone that lacks a newer one's has older keys.

    None where nothing was changed since the version that records them. Raises UsageError when the file is damaged.
    """
    hint = "restore it from git; after a merge keep the lines of both sides"
    return workspace.read_json(workspace.state_file, tuple[str, ...], hint) or ()


def require(keys: Keys, rows: Iterable[Secret]) -> None:
    """Raise UsageError that names the files of ``rows`` that are missing."""
    if missing := [row.file for row in rows if row.file not in keys.files]:
        hint = "restore it from git, or run `inv keys.generate` if it is new"
        raise UsageError("missing", where=f"keys/{', '.join(missing)}", hint=hint)


def opened(keys: Keys, master: age.Master, row: Secret) -> bytes:
    """The plaintext of ``row``; raises UsageError when its file is missing, SmallkubeError when it can't be opened."""
    require(keys, [row])
    return age.decrypt(keys.files[row.file], master, f"keys/{row.file}")


def examined(
    cluster: Cluster, keys: Keys, rows: Iterable[Secret], keyring: Keyring, master: age.Master | None = None
) -> tuple[Finding, ...]:
    """``recipients.examine`` of the file of each of ``rows``."""
    known, files = recipients.read_records(cluster.workspace), keys.files
    return tuple(recipients.examine(row, files.get(row.file), keyring, known.get(row.file), master) for row in rows)


@dataclass(frozen=True)
class Change:
    """What changes in keys/, as one.

    ``new``: secret → its plaintext; ``moved``: secret → the secret whose file it gets; ``removed``: secrets; the
    certificates of both go with them. ``public``: file in keys/ → its content, None where it is removed. ``verified``:
    secrets whose recipients have been verified by decryption, to be recorded. ``subjects``: what an interrupted change
    is called, if not by its files.
    """

    new: Mapping[Secret, bytes] = field(default_factory=dict, repr=False)
    moved: Mapping[Secret, Secret] = field(default_factory=dict)
    removed: Sequence[Secret] = ()
    public: Mapping[str, bytes | None] = field(default_factory=dict)
    verified: Sequence[Secret] = ()
    subjects: Sequence[str] = ()


@contextmanager
def changing_keys(workspace: Workspace) -> Iterator[tuple[str, ...]]:
    """Hold the lock on keys/, having removed what a killed run left there and completed what it had begun.

    Yields the subjects of the change that had to be completed. Raises UsageError when another process holds the lock.
    """
    with lock(workspace.state_dir / "keys.lock", "changing keys/"):
        for folder in _folders(workspace):
            remove_temporaries(folder)
        yield complete(workspace)


def apply(
    cluster: Cluster,
    change: Change,
    *,
    keys: Keys | None = None,
    keyring: Keyring | None = None,
    master: age.Master | None = None,
) -> tuple[str, ...]:
    """Carry out ``change`` with all that is derived from it, under the lock on keys/; the files that changed.

    ``keys``: what was planned with, else what is there; ``keyring``: of a new master. Needs no private key; with
    ``master`` each new file is verified by decrypting it. Raises SmallkubeError; nothing has changed then, or the next
    command that takes the lock completes it.
    """
    keys = keys or read_keys(cluster.workspace)
    keyring = keyring or load_keyring(cluster)
    require_host_keys(cluster.workspace, keyring, (*change.new, *change.moved))
    gone = (*(row.file for row in change.removed), *policy.certificate_files(change.removed))
    files: dict[str, bytes | None] = dict.fromkeys(gone)
    files |= {row.file: keys.files[source.file] for row, source in change.moved.items()}
    for row, source in change.moved.items():
        if row.certificate and source.certificate:
            files[row.certificate.file] = keys.certificates[source.certificate.file]
    files |= {row.file: _encrypted(row, plaintext, keyring, master) for row, plaintext in change.new.items()}
    present = {name: data for name, data in {**keys.files, **files}.items() if data is not None}
    known = recipients.read_records(cluster.workspace)
    moved = {row.file: known[source.file] for row, source in change.moved.items() if source.file in known}
    records = {name: record for name, record in {**known, **moved}.items() if name in present}
    for row in (*change.verified, *change.new):
        records[row.file] = recipients.record(present[row.file], keyring.recipients(row))
    rules = recipients.render_rules(policy.expected(cluster.inventory, present), keyring)
    derived = {
        cluster.workspace.recipients_file.name: recipients.render_records(records).encode(),
        cluster.workspace.secrets_nix.name: rules.encode(),
    }
    return commit(cluster.workspace, {**files, **change.public, **derived}, change.subjects, keys)


def write_identities(workspace: Workspace, text: str) -> None:
    """Write keys/master_key, the one file that no journal may hold; through a link, for it may be kept elsewhere."""
    if not (ignore := workspace.keys_dir / ".gitignore").exists():  # in whatever git work tree keys/ is
        write_file(ignore, IGNORED)
    write_file(workspace.master_key.resolve(), text, 0o600)


def commit(
    workspace: Workspace, files: Mapping[str, bytes | None], subjects: Sequence[str] = (), keys: Keys | None = None
) -> tuple[str, ...]:
    """Give ``files`` in keys/ their content (None: remove it), whatever comes; under the lock; those that changed.

    The change gets an id in state.json.

    Raises UsageError when they are not as in ``keys`` any more, SmallkubeError when a file can't be written: before the
    journal is there nothing has changed.
    """
    before = {name: workspace.read(workspace.keys_dir / name) for name in files}
    if keys:
        known: dict[str, bytes | None] = {**keys.files, **keys.certificates}
        covered = (name for name in files if name.endswith((policy.SUFFIX, ".crt")) and "/" not in name)
        if newer := [name for name in covered if before[name] != known.get(name)]:
            raise UsageError(f"changed meanwhile: {', '.join(newer)}", where="keys/", hint="run the same again")
    changes = {name: data for name, data in files.items() if data != before[name]}
    if not changes:
        return ()
    ids, state = [secrets.token_hex(8), *states(workspace)][:MAX_STATES], workspace.state_file.name
    before[state] = workspace.read(workspace.state_file)
    changed = tuple(changes)
    changes[state] = (json.dumps(ids, indent=0) + "\n").encode()
    replaces = {name: _hash(before[name]) for name in changes}
    document = {
        "version": 2,
        "nodes": list(subjects or changed),
        "files": {name: base64.b64encode(data).decode() for name, data in changes.items() if data is not None},
        "gone": [name for name, data in changes.items() if data is None],
        "replaces": replaces,
    }
    write_file(workspace.keys_change, json.dumps(document, indent=1) + "\n", 0o600)
    complete(workspace, _Journal(tuple(subjects) or changed, changes, replaces))
    return changed


def unfinished(workspace: Workspace) -> tuple[str, ...]:
    """The subjects of a change that was begun and has not been carried out to the end; none, when there is none.

    Raises UsageError when the journal is damaged.
    """
    found = _read(workspace)
    return found.subjects if found else ()


def refuse_unfinished(workspace: Workspace) -> None:
    """Raise UsageError when keys/ is between two states, in which no machine must get it."""
    if unfinished(workspace):
        where, hint = workspace.relative(workspace.keys_dir), "run `inv keys.generate`, which completes it"
        raise UsageError("a change of keys was interrupted", where=where, hint=hint)


def complete(workspace: Workspace, begun: "_Journal | None" = None) -> tuple[str, ...]:
    """Carry out a change that was interrupted, and return its subjects; call it under the lock on keys/.

    ``begun``: what is in the journal, from who has just written it. Raises UsageError when the journal is damaged or
    keys/ has changed since, and SmallkubeError when a file can't be written.
    """
    path = workspace.keys_change
    if begun is None:
        remove_temporaries(path.parent, path.name)
        begun = _read(workspace)
        if begun is None:
            return ()
        _refuse_newer(workspace, begun)
    files = {workspace.keys_dir / name: data for name, data in begun.files.items()}
    write_files({file: data for file, data in files.items() if data is not None})
    try:
        for gone in ([file for file, data in files.items() if data is None], [path]):
            for removed in gone:
                removed.unlink(missing_ok=True)
            for folder in {removed.parent for removed in gone}:
                sync(folder)
    except OSError as error:
        raise SmallkubeError(f"can't be removed: {error.strerror}", where=workspace.relative(path)) from error
    return begun.subjects


def _folders(workspace: Workspace) -> tuple[Path, ...]:
    return workspace.keys_dir, workspace.hosts_keys_dir, workspace.users_keys_dir


@dataclass(frozen=True)
class _Journal:
    """``files``: name in keys/ → new content, None where it is removed; ``replaces``: SHA-256 of the previous one."""

    subjects: tuple[str, ...]
    files: Mapping[str, bytes | None]
    replaces: Mapping[str, str | None]


def _read(workspace: Workspace) -> _Journal | None:
    """A journal of version 1 has no hashes of what it replaces, and one that removes nothing may lack "gone"."""
    text = workspace.read_text(workspace.keys_change)
    if text is None:
        return None
    try:
        document = json.loads(text)
        files = {str(name): base64.b64decode(text, validate=True) for name, text in document["files"].items()}
        removed = dict.fromkeys(map(str, document.get("gone", ())))
        replaces = {str(name): known for name, known in document.get("replaces", {}).items()}
        found = _Journal(tuple(map(str, document["nodes"])), {**files, **removed}, replaces)
        if not found.subjects or not all(map(_NAME.fullmatch, found.files)):
            raise ValueError("it names nothing, or what is not in keys/")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        hint = "restore keys/ from git, then remove this file"
        raise UsageError("damaged", where=workspace.relative(workspace.keys_change), hint=hint) from error
    return found


def _refuse_newer(workspace: Workspace, found: _Journal) -> None:
    now = {name: _hash(workspace.read(workspace.keys_dir / name)) for name in found.files if name in found.replaces}
    if newer := [name for name, each in now.items() if each not in (found.replaces[name], _hash(found.files[name]))]:
        raise UsageError(
            f"an interrupted change of keys would undo what was changed since: {', '.join(newer)}",
            where=workspace.relative(workspace.keys_change),
            hint="remove this file if inv keys.check finds no problem",
        )


def _hash(data: bytes | None) -> str | None:
    return None if data is None else recipients.digest(data)


def _encrypted(row: Secret, plaintext: bytes, keyring: Keyring, master: age.Master | None) -> bytes:
    data = age.encrypt(plaintext, keyring.recipients(row))
    found = recipients.examine(row, data, keyring, recipients.record(data, keyring.recipients(row)), master)
    if found.state is not State.GOOD or (master and found.plaintext != plaintext):
        raise SmallkubeError("its encryption failed verification; nothing was changed", where=row.file)
    return data
