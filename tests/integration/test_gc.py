"""Proves gc.sh with a real Nix store of its own: what would go is what goes, and what is needed stays."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smallkube.inventory.models import Node
from smallkube.operations import gc, machines
from smallkube.remote import scripts
from smallkube.remote.fake import FakeHost
from smallkube.remote.host import Command, Result

NODE = Node(name="node2", index=2, peer_ip="192.0.2.2")
SYSTEM = """
let
  build = name: text: derivation {
    inherit name text;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [
      "-c"
      "PATH=/bin:/usr/bin; mkdir -p $out/bin; cd $out/bin; printf '%s' \\"$text\\" >switch-to-configuration; chmod +x *"
    ];
  };
in
build "system-NUMBER" ''
  #!/bin/sh
  # ${build "common" "of all"} ${build "own-NUMBER" "of one"}
  echo "$0" "$@" >>LOG
''
"""
IMAGES = {
    "images": [
        {"id": "aa", "repoTags": ["docker.io/a:1"], "repoDigests": [], "size": "1048576", "uid": None, "pinned": False},
        {"id": "bb", "repoTags": [], "repoDigests": ["docker.io/b@sha256:1"], "size": "2097152", "pinned": False},
        {"id": "cc", "repoTags": ["pause:1"], "repoDigests": [], "size": "512", "username": "", "pinned": True},
        {"id": "dd", "repoTags": ["old:1"], "repoDigests": [], "size": "4096", "pinned": False},
    ]
}
CONTAINERS = {
    "containers": [
        {"id": "1", "image": {"image": "docker.io/a:1"}, "imageRef": "x", "state": "CONTAINER_EXITED"},
        {"id": "2", "image": {"image": ""}, "imageRef": "docker.io/b@sha256:1", "state": "CONTAINER_RUNNING"},
    ]
}


class Machine:
    """A Nix store with five generations of the system profile, the second of which was booted, below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root, self.bin, self.log = root, root / "bin", root / "switched"
        self.profile = root / "nix/profiles/system"
        nix = {"NIX_STORE_DIR": root / "store", "NIX_STATE_DIR": root / "nix", "NIX_LOG_DIR": root / "log"}
        self.environment = {**os.environ, **{name: str(path) for name, path in nix.items()}, "NIX_REMOTE": "local"}
        self.environment |= {"NIX_CONFIG": "sandbox = false\nsubstitute = false\nbuild-users-group =\n"}
        self.environment["PATH"] = f"{self.bin}:{os.environ['PATH']}"
        self.profile.parent.mkdir(parents=True)
        (root / "run/smallkube").mkdir(parents=True)
        (root / "containers").mkdir()
        self.bin.mkdir()
        self.program("systemctl", "")
        self.program("crictl", "exit 1")
        self.systems = [self._generation(number) for number in range(1, 6)]
        self.link("run/current-system", self.systems[4])
        self.link("run/booted-system", self.systems[1])
        for name in ("current-system", "booted-system"):
            (root / "nix/gcroots" / name).symlink_to(root / "run" / name)

    def _generation(self, number: int) -> str:
        text = SYSTEM.replace("NUMBER", str(number)).replace("LOG", str(self.log))
        drv = self.nix("nix-instantiate", "-E", text).strip()
        system = self.nix("nix-store", "--realise", drv).strip()
        self.nix("nix-env", "--profile", str(self.profile), "--set", system)
        return system

    def nix(self, *argv: str) -> str:
        return subprocess.run(
            argv, env=self.environment, check=True, text=True, timeout=60, stdout=subprocess.PIPE
        ).stdout

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)

    def link(self, name: str, target: str) -> None:
        (self.root / name).unlink(missing_ok=True)
        (self.root / name).symlink_to(target)

    def answer(self, command: Command) -> Result:
        text = command.argv[2].replace("/nix/var/nix", f"{self.root}/nix").replace("/run/", f"{self.root}/run/")
        text = text.replace("/var/lib/containers", f"{self.root}/containers")
        argv = [*command.argv[:2], text, *command.argv[3:]]
        done = subprocess.run(argv, env=self.environment, capture_output=True, timeout=120, check=False)
        return Result(done.returncode, done.stdout, done.stderr.decode())

    @property
    def host(self) -> FakeHost:
        return FakeHost(NODE, self.answer)

    def ask(self, shape: type[Any], *words: str) -> Any:
        return scripts.read(self.host, machines.SCRIPTS.sent("gc", *words), shape)

    @property
    def paths(self) -> set[str]:
        return {file.name[33:] for file in (self.root / "store").iterdir() if not file.name.startswith(".")}

    def images(self) -> None:
        for name, value in (("images", IMAGES), ("ps", CONTAINERS)):
            (self.root / name).write_text(json.dumps(value, indent=2))
        self.program("crictl", f'echo "$*" >>{self.root}/asked; cat {self.root}/"$5" 2>/dev/null || true')


@pytest.fixture
def machine(tmp_path: Path, needs: Callable[[str, object, str], None]) -> Machine:
    needs("integration", shutil.which("nix-store"), "Nix")
    return Machine(tmp_path)


def test_what_is_measured_is_what_goes(machine: Machine) -> None:
    found = gc.read(machine.host)
    old = found.removable(1)
    assert old == ("1", "3")  # 5 runs, 2 was booted, 4 is what a rollback returns to
    there = machine.paths
    measured = machine.ask(gc.Measured, "measure", *old)
    assert machine.paths == there
    machine.ask(gc.Space, "store", *old)
    gone = there - machine.paths
    assert {"system-1", "own-1", "system-3", "own-3"} <= gone
    assert {f"system-{number}" for number in (2, 4, 5)} | {"common", "own-2"} <= machine.paths
    assert measured.paths >= 4 and measured.bytes > 0
    assert machine.log.read_text().split()[1:] == ["boot"], "boot entries go with their generations"
    assert [*gc.read(machine.host).systems] == ["2", "4", "5"]


def test_nothing_to_remove_is_measured_as_nothing(machine: Machine) -> None:
    machine.ask(gc.Space, "store", "1", "3")
    assert machine.ask(gc.Measured, "measure") == gc.Measured(0, 0)
    assert gc.read(machine.host).removable(1) == ()


def test_the_next_boot_and_its_previous_always_stay(machine: Machine) -> None:
    machine.nix("nix-env", "--profile", str(machine.profile), "--switch-generation", "3")
    assert gc.read(machine.host).removable(1) == ("1", "4")


def test_a_protected_system_stays(machine: Machine) -> None:
    machine.link("nix/gcroots/smallkube-rollback", machine.systems[0])
    assert gc.read(machine.host).removable(1) == ("3",)
    machine.ask(gc.Space, "store", "3")
    assert "system-1" in machine.paths


def test_a_boot_loader_that_fails_keeps_the_store(machine: Machine) -> None:
    boot = machine.root / "broken"
    (boot / "bin").mkdir(parents=True)
    machine.nix(
        "nix-env", "--profile", str(machine.profile), "--set", machine.nix("nix-store", "--add", str(boot)).strip()
    )
    with pytest.raises(scripts.UnexpectedOutputError, match="switch-to-configuration"):
        machine.ask(gc.Space, "store", "1")
    assert "system-1" in machine.paths


def test_images_of_any_container_and_pinned_ones_stay(machine: Machine) -> None:
    machine.images()
    assert [image.id for image in gc.read(machine.host).unused_images] == ["dd"]
    machine.ask(gc.Space, "images")
    asked = (machine.root / "asked").read_text().splitlines()
    assert asked[-1] == "--runtime-endpoint unix://" + f"{machine.root}/run/crio/crio.sock --timeout 60s rmi --prune"


def test_a_runtime_that_does_not_answer_is_no_answer(machine: Machine) -> None:
    found = gc.read(machine.host)
    assert (found.images, found.unused_images) == (None, ())
    with pytest.raises(scripts.UnexpectedOutputError, match="gc failed: crictl: failed"):
        machine.ask(gc.Space, "images")


def test_an_unconfirmed_deploy_is_refused(machine: Machine) -> None:
    machine.program("systemctl", "echo smallkube-rollback-1a.timer loaded active waiting x")
    with pytest.raises(Exception, match=r"not confirmed: smallkube-rollback-1a.timer; wait until") as refused:
        gc.read(machine.host)
    assert getattr(refused.value, "exit_status", 0) == 1


def test_the_owner_of_a_deploy_lock_is_said(machine: Machine) -> None:
    lock = machine.root / "run/smallkube/lock"
    lock.mkdir()
    (lock / "owner").write_text("me@here since 10:00:00 UTC\n")
    assert gc.read(machine.host).owner == "me@here since 10:00:00 UTC"
    os.utime(lock, (0, 0))
    assert gc.read(machine.host).owner == ""
