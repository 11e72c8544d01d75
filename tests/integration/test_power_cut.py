"""Power cuts while keys/ is written, on a file system of its own: each loses what was not made durable before.

The file system is ext4 in an image. What the image holds while it is mounted is what a disk would hold then: the kernel
writes nothing by itself within seconds (dirty_expire_centisecs of the kernel, ``commit`` of ext4(5)).
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from smallkube.core.files import write_file, write_files
from smallkube.core.syncfs import sync_file_system
from smallkube.secrets import kinds, policy
from smallkube.secrets.policy import Kind
from smallkube.secrets.transaction import Change, apply, changing_keys
from tests.integration.crash import assert_complete, assert_sound, before_changes, generate, locked, plaintexts

MEBIBYTES = 24


@dataclass(frozen=True)
class Disk:
    """``folder`` is where it is mounted."""

    image: Path
    folder: Path

    @contextmanager
    def mounted(self, content: bytes | None = None) -> Iterator[None]:
        """The disk in use, with this ``content`` if given."""
        if content is not None:
            self.image.unlink()  # another file: of the previous one the kernel may still know what it held
            self.image.write_bytes(content)
        subprocess.run(["mount", "-o", "loop,commit=300", self.image, self.folder], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", self.folder], check=True)

    def cuts(self, work: Callable[[], object]) -> list[bytes]:
        """Do ``work``; what the disk holds before each of its changes, and at last when it has ended."""
        found: list[bytes] = []
        before_changes(self.folder, lambda: found.append(self.image.read_bytes()), work)
        return [*dict.fromkeys([*found, self.image.read_bytes()])]


@pytest.fixture
def disk(tmp_path: Path, needs: Callable[[str, object, str], None]) -> Disk:
    needs("integration", os.geteuid() == 0 and Path("/dev/loop-control").exists(), "root and loop devices")
    made = Disk(tmp_path / "image", tmp_path / "disk")
    made.folder.mkdir()
    made.image.write_bytes(b"")
    os.truncate(made.image, MEBIBYTES << 20)
    subprocess.run(["mkfs.ext4", "-q", "-J", "size=4", made.image], check=True)
    return made


def test_what_is_not_made_durable_is_lost(disk: Disk) -> None:
    names = [f"{number}" for number in range(20)]
    with disk.mounted():
        write_file(disk.folder / "one", "durable")
        write_files({disk.folder / name: name.encode() for name in names})
        (disk.folder / "late").write_text("not")
        after = disk.image.read_bytes()
    with disk.mounted(after):
        assert (disk.folder / "one").read_text() == "durable"
        assert [(disk.folder / name).read_text() for name in names] == names
        assert not (disk.folder / "late").exists()


def test_new_keys_survive_a_power_cut_at_any_moment(disk: Disk, make_cluster: Callable[..., Any]) -> None:
    with disk.mounted():
        cluster = make_cluster((1, 2), name="disk/ws")
        sync_file_system(disk.folder)
        cuts = disk.cuts(lambda: generate(cluster))
        done = cluster.content()
    known: list[dict[str, bytes]] = []
    for content in cuts:
        with disk.mounted(content):
            kept = cluster.content()
            plaintexts(cluster)
            generate(cluster)
            now = cluster.content()
            assert {name: now[name] for name in kept if name.endswith((".age", ".crt"))}.items() <= kept.items()
            assert_sound(cluster, known)
    assert len(cuts) > 5
    with disk.mounted(cuts[-1]):
        assert cluster.content() == done
        assert_complete(cluster)


def test_a_rotation_survives_a_power_cut_at_any_moment(disk: Disk, make_cluster: Callable[..., Any]) -> None:
    """Tokens are as before, or as after: new ones beside the previous."""
    with disk.mounted():
        cluster = make_cluster((1, 2), name="disk/ws")
        generate(cluster)
        sync_file_system(disk.folder)
        tokens = [row for row in policy.secrets_of(cluster.inventory) if row.kind is Kind.TOKEN]
        change = Change({row: kinds.make(row.kind, ()) for row in tokens}, {row.old: row for row in tokens})
        before = cluster.content()

        def work() -> None:
            with changing_keys(cluster.workspace):
                apply(cluster.cluster, change)

        cuts = disk.cuts(work)
        after = cluster.content()
    known: list[dict[str, bytes]] = []
    found: list[dict[str, bytes]] = []
    for content in cuts:
        with disk.mounted(content):
            locked(cluster)
            found.append(cluster.content())
            assert found[-1] in (before, after)
            assert_sound(cluster, known)
    assert found[0] == before != after == found[-1]
