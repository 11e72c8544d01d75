"""What `nodes.adopt` makes of a running machine: the script runs here on a folder that stands for its root, and Nix
parses what is written."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smallkube.cli.context import Current
from smallkube.cli.program import main
from smallkube.core import process
from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import Workspace
from smallkube.inventory.models import Node, Ssh
from smallkube.operations import adopt
from smallkube.remote.fake import FakeHost
from smallkube.remote.host import Command, Result

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== operator"
HARDWARE = '{ ... }:\n{\n  fileSystems."/".device = "/dev/vda1"; # it\'s "the" disk\n}\n'
STATIC: dict[str, Any] = {
    "ifname": "enp1s0",
    "addr_info": [
        {"family": "inet", "local": "192.168.0.1", "prefixlen": 24, "scope": "global"},
        {"family": "inet6", "local": "2001:db8::1", "prefixlen": 64, "scope": "global"},
        {"family": "inet6", "local": "2001:db8::99", "prefixlen": 64, "scope": "global", "dynamic": True},
        {"family": "inet6", "local": "fe80::1", "prefixlen": 64, "scope": "link"},
    ],
}
LEASED = {"ifname": "wlan0", "addr_info": [{**STATIC["addr_info"][0], "local": "10.0.0.9", "dynamic": True}]}
TUNNEL = {"ifname": "wgkube", "addr_info": [{**STATIC["addr_info"][0], "local": "10.88.1.1"}]}
GATEWAY = {"dst": "default", "gateway": "192.168.0.254", "dev": "enp1s0", "protocol": "static"}


class Machine:
    """A folder as the root of a machine; ``bin`` are programs that answer in place of its own."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin = folder / "root", folder / "bin"
        self.bin.mkdir(parents=True)
        self.file("etc/NIXOS")
        self.file("etc/hostname", "node1\n")
        self.file("etc/nixos/hardware-configuration.nix", HARDWARE)
        self.file(
            "etc/nixos/configuration.nix", '# system.stateVersion = "1.0";\n  system.stateVersion = "25.11"; # first\n'
        )
        self.file("root/.ssh/authorized_keys", f"# me\n{KEY}\n")
        self.file("boot/loader/loader.conf", "timeout 5\n")
        self.file("etc/resolv.conf", "nameserver 127.0.0.53\nnameserver 192.168.0.254\n")
        self.network()
        self.program("lsblk", 'printf "/dev/vda1 part\\n/dev/vda disk\\n"')

    def file(self, name: str, text: str = "") -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def program(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def network(self, interfaces: Any = (STATIC, LEASED, TUNNEL), routes: Any = (GATEWAY,), routes6: Any = ()) -> None:
        cases = {"address": interfaces, "*-6*": routes6, "route": routes}
        words = " ".join(f"{pattern}) echo '{json.dumps(value)}';;" for pattern, value in cases.items())
        self.program("ip", f"case \"$*\" in *-6*) echo '{json.dumps(routes6)}'; exit;; esac; case $2 in {words} esac")

    def answer(self, command: Command) -> Result:
        argv = [*command.argv, str(self.root)]
        environment = {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"}
        done = subprocess.run(argv, capture_output=True, env=environment, timeout=60)
        return Result(done.returncode, done.stdout, done.stderr.decode())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def node(**ssh: Any) -> Node:
    return Node(name="node1", index=1, peer_ip="192.168.0.1", ssh=Ssh(**{"host": "192.168.0.1", **ssh}))


def read(machine: Machine, **ssh: Any) -> adopt.Found:
    return adopt.read(FakeHost(node(**ssh), machine.answer))


@pytest.fixture
def written(machine: Machine, needs: Callable[[str, object, str], None], tmp_path: Path) -> Callable[..., str]:
    """NODE.nix for the machine, which Nix parses."""
    nix = process.find("nix-instantiate")
    needs("integration", nix, "nix-instantiate (Debian: nix-bin)")

    def write(**ssh: Any) -> str:
        text = adopt.configuration(node(**ssh), read(machine, **ssh))
        (tmp_path / "node.nix").write_text(text)
        done = process.run(
            [str(nix), "--parse", tmp_path / "node.nix"], environment={"NIX_REMOTE": str(tmp_path / "s")}
        )
        assert done.ok, done.stderr
        return text

    return write


def test_the_facts_of_a_machine(machine: Machine) -> None:
    found = read(machine)
    assert (found.nixos, found.machine, found.state_version) == (True, os.uname().machine, "25.11")
    assert (found.hardware, found.loader, found.ssh_keys) == (HARDWARE.rstrip("\n"), "systemd-boot", (KEY,))
    assert found.name_servers == ("192.168.0.254",)
    assert found.interfaces[0].static("inet6") == [adopt.Address("inet6", "2001:db8::1", 64, "global")]


def test_the_real_ip_prints_what_is_expected(machine: Machine, needs: Callable[[str, object, str], None]) -> None:
    needs("integration", shutil.which("ip"), "ip (iproute2)")
    (machine.bin / "ip").unlink()
    assert "lo" in [each.ifname for each in read(machine).interfaces]


def test_static_addresses_are_kept_and_leases_are_not(written: Callable[..., str]) -> None:
    text = written()
    assert 'networking.interfaces."enp1s0" = {' in text and "useDHCP = false;" in text
    for value in ('address = "192.168.0.1"', 'address = "2001:db8::1"', 'address = "192.168.0.254"', "nameservers"):
        assert value in text
    for value in ("10.0.0.9", "2001:db8::99", "fe80", "wgkube", "defaultGateway6"):
        assert value not in text


def test_a_machine_with_leases_needs_nothing(machine: Machine, written: Callable[..., str]) -> None:
    machine.network([LEASED, TUNNEL], [{**GATEWAY, "dev": "wlan0", "protocol": "dhcp"}])
    text = written()
    assert "# DHCP, which is the default." in text and text.count("networking.") == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [("web1\n", 'networking.hostName = "web1";'), (None, 'networking.hostName = "";'), ("no name\n", "")],
)
def test_the_host_name_stays(content: str | None, expected: str, machine: Machine, written: Callable[..., str]) -> None:
    (machine.root / "etc/hostname").unlink()
    if content:
        machine.file("etc/hostname", content)
    assert expected in (text := written()) and ("hostName" in text) is bool(expected)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"boot/efi/loader/loader.conf": ""}, "boot.loader.systemd-boot.enable = true;"),
        ({"boot/grub/grub.cfg": "", "sys/firmware/efi/x": ""}, 'device = "nodev";'),
        ({"boot/grub/grub.cfg": ""}, 'device = "/dev/vda";'),
        ({"boot/extlinux/extlinux.conf": ""}, "boot.loader.generic-extlinux-compatible.enable = true;"),
        ({}, "Not recognized: bring over boot.loader"),
    ],
)
def test_each_boot_loader(files: dict[str, str], expected: str, machine: Machine, written: Callable[..., str]) -> None:
    shutil.rmtree(machine.root / "boot")
    (machine.root / "boot").mkdir()
    for name, text in files.items():
        machine.file(name, text)
    assert expected in written()


def test_a_login_user_keeps_sudo_and_their_key(machine: Machine, written: Callable[..., str]) -> None:
    machine.file("etc/ssh/authorized_keys.d/admin", f"{KEY}\nno key\n{KEY}\n")
    text = written(user="admin", become="sudo")
    assert 'users.users."admin" = {' in text and "security.sudo.wheelNeedsPassword = false;" in text
    assert text.count(KEY) == 1 and "no key" not in text


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("etc/NIXOS", "does not run NixOS"),
        ("etc/nixos/hardware-configuration.nix", "has no hardware configuration; run nixos-generate-config"),
        ("root/.ssh/authorized_keys", "no SSH key for root in a file; a deploy would lock you out"),
    ],
)
def test_what_is_missing_is_one_line(gone: str, message: str, machine: Machine) -> None:
    (machine.root / gone).unlink()
    with pytest.raises(SmallkubeError, match=message):
        read(machine)


def test_hostile_text_stays_text(machine: Machine, written: Callable[..., str]) -> None:
    evil = '${builtins.abort "x"} "; }'
    machine.file("root/.ssh/authorized_keys", f"ssh-ed25519 AAAA {evil}\n")
    machine.network([{**STATIC, "ifname": evil.replace("'", "")}], [{**GATEWAY, "dev": evil}])
    assert 'ssh-ed25519 AAAA \\${builtins.abort \\"x\\"} \\"; }' in written()


def test_another_kind_of_machine_is_refused(machine: Machine, tmp_path: Path) -> None:
    found = dataclasses.replace(read(machine), machine="riscv64")
    with pytest.raises(SmallkubeError, match="is 'riscv64'; known are x86_64, aarch64"):
        adopt.files(Workspace(tmp_path), node(), found)


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_the_architecture_is_that_of_the_machine(name: str, machine: Machine, written: Callable[..., str]) -> None:
    machine.program("uname", f"echo {name}")
    assert f'nixpkgs.hostPlatform = lib.mkDefault "{name}-linux";' in written()


def test_the_task_shows_a_diff_and_asks(
    machine: Machine, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(workspace.root))
    monkeypatch.setattr(Current, "connect", lambda _, each: FakeHost(each, machine.answer))
    own = workspace.hosts_dir / "node1.nix"
    own.parent.mkdir(parents=True)
    own.write_text("{ }\n")

    def run(*words: str) -> tuple[int, str, str]:
        status: object = 0
        monkeypatch.setattr(sys, "argv", ["smallkube"])
        try:
            main(["smallkube", "nodes.adopt", *words])
        except SystemExit as end:
            status = end.code
        return int(str(status or 0)), *capsys.readouterr()

    assert run()[::2] == (2, "no node selected; give --node\n")
    code, output, errors = run("--node", "node1")
    assert code == 2 and "pass --yes" in errors
    assert "-{ }\n" in output and "+++ b/nix/hosts/node1-hardware.nix" in output
    assert [*own.parent.iterdir()] == [own] and own.read_text() == "{ }\n"
    assert run("--node", "node1", "--yes")[0] == 0
    assert (own.parent / "node1-hardware.nix").read_text() == HARDWARE
    assert run("--node", "node1", "--yes")[2].startswith("nothing to do")
