"""Container images for machines that reach no registry: made here of Debian's static busybox, imported on each machine.

An image is an OCI archive (github.com/opencontainers/image-spec: image-layout.md, config.md, manifest.md); a unit of
the lab gives it to the container storage before CRI-O starts.
"""

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

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
# Gives CRI-O's storage the images of a folder: lab-import-images FOLDER. NAME.name has the name of the image NAME.tar.
set -eu
for archive in "$1"/*.tar; do
  read -r image < "${archive%.tar}.name"
  skopeo inspect --raw "containers-storage:$image" >/dev/null 2>&1 ||
    skopeo --insecure-policy copy --quiet "oci-archive:$archive" "containers-storage:$image"
done
"""
JSON = "application/vnd.oci.image"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write(folder: Path, layer: Path, image: Path) -> None:
    """Write the images into ``folder`` below ``layer``, with the unit that imports them on a machine of ``image``."""
    folder.mkdir(parents=True)
    root = file_system(image / "usr/bin/busybox")
    for name, command in COMMANDS.items():
        file = name.rpartition("/")[2].partition(":")[0]
        (folder / f"{file}.tar").write_bytes(archive(root, command))
        (folder / f"{file}.name").write_text(f"{name}\n")
    program = folder.parent / "bin/lab-import-images"
    program.write_text(IMPORT)
    program.chmod(0o755)
    units = layer / "usr/lib/systemd/system"
    (units / "crio.service.wants").mkdir(parents=True)
    text = UNIT_TEXT.format(program=f"/{program.relative_to(layer)}", folder=f"/{folder.relative_to(layer)}")
    (units / UNIT).write_text(text)
    (units / "crio.service.wants" / UNIT).symlink_to(f"../{UNIT}")


def file_system(busybox: Path) -> bytes:
    """A tar archive with busybox and a link for each of its commands."""
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        _add(tar, "bin/busybox", busybox.read_bytes(), 0o755)
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644)
        _add(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)
        for command in listed.stdout.split():
            if command != "busybox":
                entry = tarfile.TarInfo(f"bin/{command}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
    return data.getvalue()


def archive(root: bytes, command: Sequence[str]) -> bytes:
    """An OCI archive of an image with one layer, the tar archive ``root``; the same input gives the same bytes."""
    layer = gzip.compress(root, mtime=0)
    blobs = {_digest(layer): layer}

    def blob(value: object) -> tuple[str, int]:
        data = json.dumps(value, sort_keys=True).encode()
        blobs[_digest(data)] = data
        return _digest(data), len(data)

    machine = platform.machine()
    config, config_size = blob(
        {
            "architecture": ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "config": {"Cmd": list(command), "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(root)}"]},
        }
    )
    manifest, manifest_size = blob(
        {
            "schemaVersion": 2,
            "mediaType": f"{JSON}.manifest.v1+json",
            "config": {"mediaType": f"{JSON}.config.v1+json", "digest": f"sha256:{config}", "size": config_size},
            "layers": [
                {
                    "mediaType": f"{JSON}.layer.v1.tar+gzip",
                    "digest": f"sha256:{_digest(layer)}",
                    "size": len(layer),
                }
            ],
        }
    )
    described = {"mediaType": f"{JSON}.manifest.v1+json", "digest": f"sha256:{manifest}", "size": manifest_size}
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        _add(tar, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode(), 0o644)
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [described]}).encode(), 0o644)
        for digest, content in sorted(blobs.items()):
            _add(tar, f"blobs/sha256/{digest}", content, 0o644)
    return data.getvalue()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
