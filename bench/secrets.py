"""How long all secrets of a cluster take to make, against a shell loop of `wg genkey | age` over as many secrets."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.harness import INV, Plan, Row, absent, command, compare
from smallkube.core.workspace import REPOSITORY

LOOP = """
for i in $(seq {count}); do wg genkey | age -R recipients -o "secret$i.age"; rm -f "secret$i.age"; done
"""


def rows(plan: Plan) -> Iterator[Row]:
    if absent("keys.generate", INV, "ssh-keygen", "wg", "age"):
        return
    for nodes in plan.nodes:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            make_workspace(root, nodes)
            fresh = Fresh(root)
            fresh()
            count = len(list((root / "keys").glob("*.age")))
            (root / "recipients").write_text((root / "keys/hosts/node1.pub").read_text() * 3)
            loop = command(["sh", "-c", LOOP.format(count=count)], cwd=root)
            yield compare(
                plan,
                f"keys.generate, {nodes} nodes ({count} secrets)",
                fresh,
                "wg genkey | age, one by one",
                loop,
                "at most 0.25 times",
            )


def make_workspace(root: Path, nodes: int) -> None:
    """An inventory of ``nodes`` nodes with ephemeral host keys."""
    entries = "".join(f"  node{index}: {{peer_ip: 192.0.2.{index}}}\n" for index in range(1, nodes + 1))
    (root / "inventory.yaml").write_text(f"cluster: {{name: bench}}\nnodes:\n{entries}")
    hosts = root / "keys" / "hosts"
    hosts.mkdir(parents=True)
    for index in range(1, nodes + 1):
        key = root / "host_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        shutil.move(f"{key}.pub", hosts / f"node{index}.pub")
        key.unlink()


class Fresh:
    """`keys.generate` into an emptied keys/ (the host keys stay)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.generate = command(
            [INV, "keys.generate"], cwd=REPOSITORY, env={**os.environ, "SMALLKUBE_WORKSPACE": str(root)}
        )

    def __call__(self) -> None:
        for file in (self.root / "keys").iterdir():
            if file.is_file():
                file.unlink()
        self.generate()
