"""The examples of NODE.nix and of the installer evaluate, and set no option that is unknown.

nixpkgs and disko are stand-ins (lab/nix), whose options are theirs by name and type; nothing is built or partitioned.
"""

import json
import re
from pathlib import Path

import pytest

from lab import standins
from lab.checks.evaluate import Description
from smallkube.core import process
from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import REPOSITORY
from smallkube.nix.flake import reason

from .conftest import Build, Describe, Tree

pytestmark = pytest.mark.integration

EXAMPLES = {each.stem: each.read_text() for each in sorted((REPOSITORY / "nix/examples").glob("*.nix"))}
INSTALLED = [name for name in EXAMPLES if name != "arm-board"]
DISKO = (standins.SOURCE / "disko/module.nix").read_text()
FETCHED = re.compile(
    r'"\$\{\s*builtins\.fetchTarball \{\s*url = "([^"]+)";\s*sha256 = "([^"]+)";\s*\}\s*\}/module\.nix"'
)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== me"
RELEASE = ("v1.13.0.tar.gz", "03jz60kw0khm1lp72q65z8gq69bfrqqbj08kw0hbiav1qh3g7p08")
"""Of disko, and the hash of its tree, as others pin it too."""


def adapted(text: str) -> str:
    """The example with a key, and the stand-in for disko."""
    with_key = re.sub(r"(authorizedKeys\.keys = \[\n)[^\]]*\]", rf'\1 "{KEY}" ]', text)
    assert KEY in with_key
    return FETCHED.sub("./disko.nix", with_key)


def tree_of(build: Build, text: str) -> Tree:
    return build((1, 2)).with_file("nix/hosts/node2.nix", adapted(text)).with_file("nix/hosts/disko.nix", DISKO)


@pytest.fixture
def host(build: Build, describe: Describe, nix: str, tmp_path: Path) -> "Host":
    return Host(build, describe, nix, tmp_path)


class Host:
    """node2 as an example has it."""

    def __init__(self, build: Build, describe: Describe, nix: str, folder: Path) -> None:
        self._build, self._describe, self._nix, self._folder = build, describe, nix, folder

    def described(self, text: str) -> Description:
        return self._describe(tree_of(self._build, text))["node2"]

    def evaluated(self, text: str, expression: str) -> object:
        """``expression`` of ``config``."""
        for path, data in tree_of(self._build, text).files.items():
            file = self._folder / "tree" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        system = (
            f"let lib = import {standins.SOURCE}/lib; "
            f"config = (import {standins.SOURCE}/eval-config.nix {{ inherit lib; }} {{ modules = [ "
            f"{standins.SOURCE}/agenix/modules/age.nix {self._folder}/tree/nix/rendered/node2.nix ]; }}).config; "
            f"in {expression}"
        )
        argv = [self._nix, "--eval", "--strict", "--json", "--expr", system]
        done = process.run(argv, environment={"NIX_REMOTE": "dummy://", "NIX_PATH": ""})
        if not done.ok:
            raise SmallkubeError(reason(done.stderr))
        return json.loads(done.stdout)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_evaluates_without_complaint(name: str, host: Host) -> None:
    described = host.described(EXAMPLES[name])
    assert (described["failedAssertions"], described["warnings"]) == ([], [])
    assert host.evaluated(EXAMPLES[name], "config.lab.unknownDefinitions or [ ]") == []


def test_a_misspelt_option_in_an_example_is_noticed(host: Host) -> None:
    text = EXAMPLES["cloud"].replace("services.qemuGuest", "services.qemuGest")
    assert host.evaluated(text, "config.lab.unknownDefinitions or [ ]") != []
    assert "services.qemuGest.enable" in host.described(text)["unsupported"]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('size = "1M"', 'sizes = "1M"', "sizes"),
        ('type = "EF02"', 'type = "bios"', "EF02|type"),
        ('type = "gpt"', 'type = "mbr"', "gpt"),
        ('device = "/dev/vda"', 'device = "vda"', "device"),
    ],
)
def test_a_wrong_disk_is_refused(old: str, new: str, named: str, host: Host) -> None:
    text = EXAMPLES["virtual-machine"]
    assert old in text
    with pytest.raises(SmallkubeError, match=named):
        host.evaluated(text.replace(old, new), "config.fileSystems // { disks = config.disko.devices.disk; }")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_boots_and_lets_you_in(name: str, host: Host) -> None:
    found = host.evaluated(
        EXAMPLES[name],
        "{ inherit (config) fileSystems; inherit (config.boot.loader) grub; keys = config.users.users.root"
        ".openssh.authorizedKeys.keys; system = config.nixpkgs.hostPlatform; others = "
        "config.boot.loader.systemd-boot.enable || config.boot.loader.generic-extlinux-compatible.enable; }",
    )
    assert isinstance(found, dict)
    assert found["fileSystems"]["/"]["fsType"] == "ext4"
    assert found["keys"] == [KEY]
    assert found["system"] == ("aarch64-linux" if name == "arm-board" else "x86_64-linux")
    # GRUB needs a disk, by disko's boot partition; where another loader boots, NixOS switches it off or has no disk.
    assert found["others"] or found["grub"]["devices"]


@pytest.mark.parametrize("name", INSTALLED)
def test_an_example_pins_disko(name: str) -> None:
    found = FETCHED.search(EXAMPLES[name])
    assert found and (found[1].rpartition("/")[2], found[2]) == RELEASE
    assert re.search(r"disko\.devices\.disk\.main = \{\n    device = .*# <-", EXAMPLES[name])


@pytest.mark.parametrize("key", ["", f'"{KEY}"'])
def test_the_installer_lets_the_operator_in(key: str, store: str, tmp_path: Path) -> None:
    text = (REPOSITORY / "nix/installer/flake.nix").read_text()
    (tmp_path / "installer").mkdir()
    written = text.replace('# "ssh-ed25519 AAAA… you"', key)
    assert written != text
    (tmp_path / "installer/flake.nix").write_text(written)
    argv = ["nix", "--extra-experimental-features", "nix-command flakes", "eval", "--json", "--no-write-lock-file"]
    argv += ["--override-input", "nixpkgs", f"path:{standins.SOURCE}"]
    root = "nixosConfigurations.aarch64-linux.config.users.users.root.openssh.authorizedKeys.keys"
    done = process.run([*argv, f"path:{tmp_path}/installer#{root}"])
    if key:
        assert json.loads(done.stdout) == [KEY], done.stderr
    else:
        assert not done.ok and "write your SSH key into nix/installer/flake.nix" in done.stderr
