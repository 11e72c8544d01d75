"""Container images for machines that reach no registry: made here, imported on each machine.

A folder of images is an OCI image layout (github.com/opencontainers/image-spec: image-layout.md, config.md,
manifest.md, annotations.md), in which a layer of several images is stored once. A unit of the lab gives those of
Debian's static busybox to the container storage before CRI-O starts.
"""

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.machine import Machine

BUSYBOX = "smallkube.lab/busybox:1"
PAUSE = "smallkube.lab/pause:1"
COMMANDS: Mapping[str, Sequence[str]] = {
    BUSYBOX: ("sh",),
    PAUSE: ("/bin/sh", "-c", "trap 'exit 0' INT TERM; while :; do sleep 2147483647 & wait; done"),
}
"""Image to what runs in it when nothing else is asked for."""

UNIT = "lab-images.service"
UNIT_TEXT = """\
[Unit]
Description=Container images of the lab
Before=crio.service
RequiresMountsFor=/var/lib/containers

[Service]
Type=oneshot
RemainAfterExit=true
ExecStart={program} {folder}
"""
IMPORT = """\
#!/bin/sh
# Gives CRI-O's storage the images of a folder: lab-import-images FOLDER
set -eu
name=org.opencontainers.image.ref.name
images=$(jq --raw-output --arg name "$name" '.manifests[] | .annotations[$name] + "@" + .digest' "$1/index.json")
for image in $images; do
  there=$(skopeo inspect --raw "containers-storage:${image%@*}" 2>/dev/null | sha256sum)
  [ "sha256:${there%% *}" = "${image##*@}" ] ||
    skopeo --insecure-policy copy --quiet "oci:$1:${image%@*}" "containers-storage:${image%@*}"
done
"""
STORAGE = "var/lib/containers"
JSON = "application/vnd.oci.image"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Image:
    """A container image: its name, its layers (tar archives, lowest first), and what runs in it.

    ``entrypoint`` comes before ``command``, in whose place a pod's ``args`` come; ``user`` as in a Dockerfile.
    """

    name: str
    layers: Sequence[bytes]
    command: Sequence[str] = ()
    entrypoint: Sequence[str] = ()
    user: str = ""
    path: str = PATHS

    @property
    def config(self) -> dict[str, Any]:
        """What a container gets of the image, in the form of config.md."""
        given = {"Cmd": list(self.command), "Entrypoint": list(self.entrypoint), "User": self.user}
        return {**{name: value for name, value in given.items() if value}, "Env": [f"PATH={self.path}"]}


def write(folder: Path, layer: Path, image: Path) -> None:
    """Write the images into ``folder`` below ``layer``, with the unit that imports them on a machine of ``image``."""
    root = file_system(image / "usr/bin/busybox")
    write_images(folder, [Image(name, [root], command, path="/bin") for name, command in COMMANDS.items()])
    program = folder.parent / "bin/lab-import-images"
    program.write_text(IMPORT)
    program.chmod(0o755)
    units = layer / "usr/lib/systemd/system"
    (units / "crio.service.wants").mkdir(parents=True)
    text = UNIT_TEXT.format(program=f"/{program.relative_to(layer)}", folder=f"/{folder.relative_to(layer)}")
    (units / UNIT).write_text(text)
    (units / "crio.service.wants" / UNIT).symlink_to(f"../{UNIT}")


def bring(machine: Machine, folder: Path) -> None:
    """Import the images of ``folder`` that a running machine lacks.

    Raises SmallkubeError when it fails.
    """
    copy = f"/{STORAGE}/lab-{folder.name}"
    try:
        machine.put(folder, copy)
        machine.check("/opt/smallkube-lab/bin/lab-import-images", copy)
    finally:
        machine.execute(["rm", "-rf", copy])


def file_system(busybox: Path, programs: Mapping[str, bytes] | None = None) -> bytes:
    """A tar archive with busybox, a link for each of its commands, and ``programs`` (path to content)."""
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        add_file(tar, "bin/busybox", busybox.read_bytes(), 0o755)
        add_file(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644)
        add_file(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)
        for command in listed.stdout.split():
            if command != "busybox":
                entry = tarfile.TarInfo(f"bin/{command}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
        for name, content in (programs or {}).items():
            add_file(tar, name, content, 0o755)
    return data.getvalue()


def write_images(folder: Path, images: Iterable[Image]) -> None:
    """Write the images into the new ``folder``; the same input gives the same bytes."""
    store = _Store(folder / "blobs/sha256")
    described = [_add_image(store, image) for image in images]
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": described}))


def _add_image(store: "_Store", image: Image) -> dict[str, Any]:
    machine = platform.machine()
    layers = [store.layer(layer) for layer in image.layers]
    config = {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": image.config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(layer)}" for layer in image.layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{JSON}.manifest.v1+json",
        "config": store.json(f"{JSON}.config.v1+json", config),
        "layers": layers,
    }
    named = {"annotations": {"org.opencontainers.image.ref.name": image.name}}
    return {**store.json(f"{JSON}.manifest.v1+json", manifest), **named}


class _Store:
    """The blobs of a layout: each is described as manifest.md wants it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._layers: dict[bytes, dict[str, Any]] = {}

    def layer(self, layer: bytes) -> dict[str, Any]:
        if layer not in self._layers:
            self._layers[layer] = self._blob(f"{JSON}.layer.v1.tar+gzip", gzip.compress(layer, mtime=0))
        return self._layers[layer]

    def json(self, kind: str, value: object) -> dict[str, Any]:
        return self._blob(kind, json.dumps(value, sort_keys=True).encode())

    def _blob(self, kind: str, data: bytes) -> dict[str, Any]:
        digest = _digest(data)
        (self._folder / digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def add_file(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
