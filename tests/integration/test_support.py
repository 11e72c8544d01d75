"""The archive for support has no secret, wherever one may be: the real script runs, and programs print them all."""

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import Node
from smallkube.operations import support
from smallkube.remote.fake import FakeHost
from smallkube.remote.host import Command, Result
from smallkube.secrets import age
from tests.integration.conftest import PreparedWorkspace
from tests.leaks import Canaries

NOW = datetime(2026, 11, 27, 7, 22, 34, tzinfo=UTC)
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJlLW9mLWEtcG9k"
PROGRAMS = ("journalctl", "systemctl", "nft", "ip", "wg", "df", "free", "kubectl", "nixos-version")


class Site:
    """Machines whose /run/agenix has every secret there is, and whose programs print all of them."""

    def __init__(self, ready: PreparedWorkspace, folder: Path) -> None:
        self.cluster, self.folder, self.down = ready.cluster, folder, set[str]()
        master = age.require_master(ready.workspace, "to test")
        for name in ("bin", "agenix", "ssh"):
            (folder / name).mkdir()
        for path in ready.keys.glob("*.age"):
            plain = age.decrypt(path.read_bytes(), master, path.name)
            (folder / "agenix" / path.name.removesuffix(".age")).write_bytes(plain)
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "ssh" / "ssh_host_ed25519_key")]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        for name in PROGRAMS:
            script = f'#!/bin/sh\necho "here is {name}"\nfor file in {folder}/agenix/* {folder}/ssh/*_key; do\n'
            script += f'echo "{name}: token=$(tr "\\n" " " <"$file") of a client, $(cat "$file")"\ndone\necho {JWT}\n'
            (folder / "bin" / name).write_text(script)
            (folder / "bin" / name).chmod(0o755)

    def connect(self, node: Node) -> FakeHost:
        if node.name in self.down:
            raise SmallkubeError("can't be reached", where=node.name)
        return FakeHost(node, self.answer)

    def answer(self, command: Command) -> Result:
        if command.name != "support":
            return Result(1, b"", "no answer")
        moved = {"/run/agenix": f"{self.folder}/agenix", "/etc/ssh": f"{self.folder}/ssh"}
        argv = [*command.argv]
        for old, new in moved.items():
            argv[2] = argv[2].replace(old, new)
        environment = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}
        done = subprocess.run(argv, capture_output=True, env=environment, timeout=120)
        return Result(done.returncode, done.stdout, done.stderr.decode())

    @property
    def canaries(self) -> Canaries:
        found = Canaries()
        found.read(self.cluster.workspace)
        found.add("host key", (self.folder / "ssh" / "ssh_host_ed25519_key").read_bytes())
        found.texts["service account"].add(JWT.encode())
        return found


@pytest.fixture
def site(ready: PreparedWorkspace, tmp_path: Path) -> Site:
    folder = tmp_path / "machine"
    folder.mkdir()
    return Site(ready, folder)


def unpacked(data: bytes) -> Mapping[str, str]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        assert {member.mode for member in archive} == {0o600}
        files = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive}
        return {name: file.read().decode() for name, file in files.items() if file}


def test_archive_has_no_secret(site: Site) -> None:
    workspace, own = site.cluster.workspace, site.cluster.workspace.state_dir
    own.mkdir(exist_ok=True)
    master = workspace.master_key.read_text()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(own / "ssh_key")], check=True)
    key = (own / "ssh_key").read_text()
    (own / "log").write_text(f"{master}\n{key}\n{key.splitlines()[2]}\n{JWT}\nharmless\n")
    with workspace.inventory_file.open("a") as file:
        file.write("".join(f"# {line}\n" for line in (master + key).splitlines()))
    canaries = site.canaries
    printed = site.answer(Command(("sh", "-c", f"cat {site.folder}/agenix/*", "x"), title="support"))
    assert len(canaries.found(printed.stdout)) > 10, "what is looked for is what the machines have"
    found = support.collect(site.cluster, site.connect, NOW)
    files = unpacked(found.data)
    assert {name: leaked for name, text in files.items() if (leaked := canaries.found(text.encode()))} == {}
    assert "harmless" in files["operator/log.txt"] and "cluster:" in files["operator/inventory.yaml"]


def test_archive_has_what_explains_a_fault(site: Site) -> None:
    found = support.collect(site.cluster, site.connect, NOW)
    files = unpacked(found.data)
    own = {"versions", "units", "failed", "journal", "kernel", "rules", "network", "disk"}
    of_cluster = {"nodes", "pods", "events", "ready"}
    assert {f"node1/{name}.txt" for name in own | of_cluster} <= files.keys()
    assert {f"node2/{name}.txt" for name in own} <= files.keys()
    assert not {f"node2/{name}.txt" for name in of_cluster} & files.keys()
    assert "=== kubelet" in files["node2/journal.txt"] and "here is journalctl" in files["node2/journal.txt"]
    assert "here is nft" in files["node1/rules.txt"]
    assert json.loads(files["operator/versions.json"])["packages"]
    assert {"state.json", "operator/inventory.yaml"} <= files.keys()
    assert found.missing == {}


def test_archive_says_which_machine_was_not_asked(site: Site) -> None:
    site.down = {"node2"}
    found = support.collect(site.cluster, site.connect, NOW)
    assert unpacked(found.data)["node2/error.txt"] == "node2: can't be reached\n"
    assert found.missing == {"node2": "can't be reached"}


def test_sections_are_bounded(site: Site) -> None:
    (site.folder / "bin" / "nft").write_text("#!/bin/sh\nyes 'a rule of many' | head -c 9000000\n")
    text = unpacked(support.collect(site.cluster, site.connect, NOW).data)["node1/rules.txt"]
    assert 200_000 < len(text) < 400_000
