"""Removing what machines no longer need: old generations with their boot entries, store paths, container images.

Images: ``crictl rmi --prune`` (cri-tools, cmd/crictl/image.go) leaves those of all containers, and pinned ones.
"""

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import Field

from smallkube.core.errors import SmallkubeError
from smallkube.core.files import lock
from smallkube.core.workspace import Workspace
from smallkube.deploy.facts import Generations
from smallkube.deploy.machine_lock import MachineLock
from smallkube.inventory.models import Node
from smallkube.operations.machines import SCRIPTS
from smallkube.remote import fleet, scripts
from smallkube.remote.fleet import NodeOutcome, Report, Watcher
from smallkube.remote.host import Connect, Host

FACTS_SECONDS, COLLECT_SECONDS = 300, 3600
"""Without output, a machine is given up after so long."""

Text = Annotated[str, Field(max_length=300)]


@dataclass(frozen=True)
class Image:
    """One of ``crictl images --output json`` (CRI v1); ``size`` in bytes."""

    id: Text
    size: Annotated[str, Field(pattern="^[0-9]{1,18}$")] = "0"
    repoTags: tuple[Text, ...] = ()
    repoDigests: tuple[Text, ...] = ()
    pinned: bool = False


@dataclass(frozen=True)
class Images:
    images: tuple[Image, ...]


@dataclass(frozen=True)
class ImageSpec:
    image: Text = ""


@dataclass(frozen=True)
class Container:
    """One of ``crictl ps --all --output json``."""

    image: ImageSpec = ImageSpec()
    imageRef: Text = ""
    imageId: Text = ""


@dataclass(frozen=True)
class Containers:
    containers: tuple[Container, ...]


@dataclass(frozen=True)
class Facts(Generations):
    """What ``gc.sh facts`` prints: the running, the ``booted`` and the protected ``rollback`` system (store paths); the
    units of rollbacks that are ``armed``, and the ``owner`` of a deploy's lock, "" without one. ``images`` and
    ``containers`` are None where CRI-O does not answer.
    """

    system: str
    booted: str
    rollback: str
    armed: tuple[str, ...]
    owner: Text
    images: Images | None
    containers: Containers | None

    def removable(self, keep: int) -> tuple[str, ...]:
        """The generations that may go, oldest first: none that runs, was booted, boots next or can be rolled back to,
        and none of the ``keep`` newest.
        """
        numbers = sorted((each for each in self.systems if each), key=int)
        current = int(self.current or 0)
        stay = {*numbers[-keep:], self.current, *[each for each in numbers if int(each) < current][-1:]}
        needed = {self.system, self.booted, self.rollback}
        return tuple(each for each in numbers if each not in stay and self.systems[each] not in needed)

    @property
    def unused_images(self) -> tuple[Image, ...]:
        """Those that no container has, also none that has ended, and that are not pinned."""
        if self.images is None or self.containers is None:
            return ()
        used = {name for each in self.containers.containers for name in (each.image.image, each.imageRef, each.imageId)}
        return tuple(
            each
            for each in self.images.images
            if not each.pinned and used.isdisjoint((each.id, *each.repoTags, *each.repoDigests))
        )

    def refuse_deploy(self) -> None:
        """Raise SmallkubeError while a deploy is not confirmed: what it may roll back to must stay."""
        if self.armed:
            reason = f"a deploy is not confirmed: {self.armed[0]}"
            raise SmallkubeError(reason, hint="wait until it is confirmed, or has rolled back")


@dataclass(frozen=True)
class Measured:
    """What the Nix store could do without, now or without some generations."""

    paths: int
    bytes: int


@dataclass(frozen=True)
class Space:
    """KiB that became free; less than nothing where something else has taken it."""

    freed: int


@dataclass
class Freed(Report):
    """What one node can do without (outcome "checked"), or did (outcome "cleaned").

    ``generations``: their numbers; sizes in bytes: before, they are computed, and of images at most, which may share
    layers; afterwards, they are what became free.
    """

    generations: tuple[str, ...] = ()
    paths: int = 0
    store_bytes: int = 0
    images: int = 0
    image_bytes: int = 0

    @property
    def something(self) -> bool:
        """Whether there is anything to remove."""
        return bool(self.good and (self.generations or self.paths or self.images))


def read(host: Host) -> Facts:
    """Raises SmallkubeError also while a deploy is under way or not confirmed."""
    found = scripts.read(host, SCRIPTS.sent("gc", "facts", title="facts", timeout=FACTS_SECONDS), Facts)
    found.refuse_deploy()
    return found


def plan(
    nodes: Sequence[Node], connect: Connect, keep: int, images: bool, watcher: Watcher, stop: threading.Event
) -> tuple[Freed, ...]:
    """What each of ``nodes`` can do without, all asked at once; changes nothing."""

    def work(node: Node) -> Freed:
        watcher.step(node.name, "measure")
        with connect(node) as host:
            found = read(host)
            if found.owner:
                raise SmallkubeError(f"a deploy is under way there: {found.owner}", hint="wait until it has ended")
            old = found.removable(keep)
            command = SCRIPTS.sent("gc", "measure", *old, title="measure", timeout=FACTS_SECONDS)
            store = scripts.read(host, command, Measured)
        unused = found.unused_images if images else ()
        silent = images and found.images is None
        remark = "images are left: CRI-O does not answer" if silent else ""
        size = sum(int(each.size) for each in unused)
        return Freed(node.name, NodeOutcome.CHECKED, 0, remark, old, store.paths, store.bytes, len(unused), size)

    return fleet.report([nodes], work, watcher, stop, kind=Freed)


def execute(
    planned: Sequence[Freed],
    nodes: Sequence[Node],
    workspace: Workspace,
    connect: Connect,
    keep: int,
    watcher: Watcher,
    stop: threading.Event,
) -> tuple[Freed, ...]:
    """Remove that, on all nodes at once; those that could not be asked stay as they are. Ctrl-C ends it before the next
    part of a node. Whatever has come to need a generation since is left.
    """
    plans = {each.node: each for each in planned}

    def work(node: Node) -> Freed:
        with lock(workspace.state_dir / "locks" / node.name, f"cleaning {node.name}") as _, connect(node) as host:
            held = MachineLock(partial(connect, node), secrets.token_hex(4))
            file = (workspace.state_dir / "locks" / node.name).stat()
            held.take(host, f"{file.st_dev}:{file.st_ino}")
            try:
                return _clean(host, plans[node.name], keep, watcher, stop)
            finally:
                held.release(lambda: host)

    todo = [node for node in nodes if plans[node.name].something]
    done = {each.node: each for each in fleet.report([todo], work, watcher, stop, kind=Freed)}
    return tuple(done.get(each.node, each) for each in planned)


def _clean(host: Host, wanted: Freed, keep: int, watcher: Watcher, stop: threading.Event) -> Freed:
    found, name = read(host), wanted.node
    old = tuple(each for each in found.removable(keep) if each in wanted.generations)
    ended = Freed(name, NodeOutcome.CLEANED, reason=wanted.reason, generations=old, paths=wanted.paths)
    if old or wanted.paths:
        watcher.step(name, "collect garbage")
        command = SCRIPTS.sent("gc", "store", *old, title="collect garbage", timeout=COLLECT_SECONDS)
        ended.store_bytes = max(0, scripts.read(host, command, Space).freed) << 10
    if wanted.images:
        if stop.is_set():
            raise SmallkubeError("interrupted; its images are left")
        watcher.step(name, "remove images")
        command = SCRIPTS.sent("gc", "images", title="remove images", timeout=COLLECT_SECONDS)
        ended.image_bytes = max(0, scripts.read(host, command, Space).freed) << 10
        ended.images = wanted.images
    return ended
