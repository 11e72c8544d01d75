"""Writing many files of one folder atomically, without waiting for the disk once for each.

Every file is whole or absent after a crash, as with ``workspace.write_file``; all of one batch are durable before
the call returns, so that a crash can't reverse the order of batches.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import TEMPORARY_PREFIX, sync_folder, write_file

_FEW = 4
_AT_ONCE = 16


def write_files(folder: Path, files: Mapping[str, bytes], mode: int = 0o644) -> None:
    """Write ``files`` (name → content) into ``folder``.

    Raises SmallkubeError when the disk is full or the folder not writable.
    """
    if len(files) <= _FEW:
        for name, content in files.items():
            write_file(folder / name, content, mode)
        return
    temporaries = {name: folder / f"{TEMPORARY_PREFIX}{name}.{os.getpid()}" for name in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for name, content in files.items():
                _write(temporaries[name], content, mode)
            list(pool.map(_sync, temporaries.values()))
        for name, temporary in temporaries.items():
            temporary.replace(folder / name)
        sync_folder(folder)
    except OSError as error:
        raise SmallkubeError(f"can't be written: {error.strerror}", where=str(folder)) from error
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def _write(path: Path, content: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, mode)
        file.write(content)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
