"""How long all secrets of a cluster take to make, against a loop of `wg genkey | age` and against pyrage alone."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.harness import INV, Plan, Row, Work, absent, command, compare, prepared
from smallkube.core.workspace import REPOSITORY, Workspace
from smallkube.inventory.load import load
from smallkube.inventory.releases import RELEASES
from smallkube.secrets import policy

LOOP = """
for i in $(seq {count}); do wg genkey | age -R recipients -o "secret$i.age"; done
"""
PYRAGE = """
import sys
from pathlib import Path
import pyrage
lines = Path("recipients").read_text().splitlines()
recipients = [pyrage.ssh.Recipient.from_str(line) for line in lines]
for number in range(int(sys.argv[1])):
    Path(f"secret{number}.age").write_bytes(pyrage.encrypt(bytes(44), recipients))
"""


def rows(plan: Plan) -> Iterator[Row]:
    if absent("keys.generate", INV, "ssh-keygen", "wg", "age"):
        return
    for nodes in plan.nodes:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            make_workspace(root / "template", nodes)
            count = len(policy.secrets_of(load(Workspace(root / "template").inventory_file)))
            loop, raw = ["sh", "-c", LOOP.format(count=count)], [sys.executable, "-c", PYRAGE, str(count)]
            work = f"keys.generate, {nodes} nodes ({count} secrets)"
            for against, argv, goal in (
                ("wg genkey | age, one by one", loop, "at most 0.2 times for 254 nodes"),
                ("pyrage alone, as many secrets", raw, "at most 3 times for 254 nodes"),
            ):
                place = root / against.split()[0]
                place.mkdir()
                yield compare(plan, work, *_sides(plan, place, root / "template", argv, against), goal)


def make_workspace(root: Path, nodes: int) -> None:
    """An inventory of ``nodes`` nodes, of the newest release, with ephemeral host keys."""
    entries = "".join(f"  node{index}: {{peer_ip: 192.0.2.{index}}}\n" for index in range(1, nodes + 1))
    release = max(RELEASES)
    versions = f'nixos: "{release}", kubernetes: "{RELEASES[release]}"'
    hosts = root / "keys" / "hosts"
    hosts.mkdir(parents=True)
    (root / "inventory.yaml").write_text(f"cluster: {{name: bench, {versions}}}\nnodes:\n{entries}")
    for index in range(1, nodes + 1):
        key = root / "host_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        shutil.move(f"{key}.pub", hosts / f"node{index}.pub")
        key.unlink()


def _sides(plan: Plan, place: Path, template: Path, argv: list[str], against: str) -> tuple[Work, str, Work]:
    """Ours, and ``argv`` in folders with two recipients, as most secrets have."""

    def theirs(run: int) -> Work:
        folder, hosts = place / f"theirs{run}", template / "keys/hosts"
        folder.mkdir()
        (folder / "recipients").write_text((hosts / "node1.pub").read_text() + (hosts / "node2.pub").read_text())
        return command(argv, cwd=folder)

    ours = prepared(plan, lambda run: generate(place / f"ours{run}", template))
    return ours, against, prepared(plan, theirs)


def generate(root: Path, template: Path) -> Work:
    """`keys.generate` in ``root``, a new copy of the workspace ``template``."""
    shutil.copytree(template, root)
    environment = {**os.environ, "SMALLKUBE_WORKSPACE": str(root)}
    return command([INV, "keys.generate"], cwd=REPOSITORY, env=environment)
