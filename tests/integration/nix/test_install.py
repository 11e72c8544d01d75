"""What `nodes.install` checks and gives to nixos-anywhere. Nix, SSH, age and the host key are real; nixpkgs, disko and
nixos-anywhere are stand-ins, so that no machine is erased."""

import json
import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import standins
from smallkube.core.workspace import REPOSITORY
from smallkube.nix.bundle import write_tree
from tests.integration.sshd import SSHD, Server

pytestmark = pytest.mark.integration

FAKE = Path(__file__).with_name("fake_nixos_anywhere.py")
EXAMPLE = (REPOSITORY / "nix/examples/bare-metal.nix").read_text()
HOST_KEY = "etc/ssh/ssh_host_ed25519_key"
Key = Callable[[], Path]


@pytest.fixture(scope="module")
def disk() -> str:
    """A block device, which nothing here touches."""
    found = [each for each in sorted(Path("/dev").iterdir()) if stat.S_ISBLK(each.stat().st_mode)]
    if not found:
        pytest.skip("no block device in /dev")
    return str(found[0])


@pytest.fixture
def server(needs: Callable[[str, object, str], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An SSH server as that of an installer, and an agent with the key that it lets in."""
    needs("integration", Path(SSHD).exists(), "sshd (openssh-server)")
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder) / "ssh").running() as running:
        said = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
        values = dict(re.findall(r"(SSH_\w+)=([^;]+)", said))
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        subprocess.run(["ssh-add", "-q", running.folder / "user"], check=True)
        yield running
        os.kill(int(values["SSH_AGENT_PID"]), signal.SIGTERM)


class Site:
    """A workspace of two nodes, of which node2 is to be installed, and the private half of its host key."""

    def __init__(self, ready: Any, server: Server, folder: Path, disk: str) -> None:
        self.ready, self.server, self.disk = ready, server, disk
        self.target, self.port = "root@127.0.0.1", server.port
        self.report = folder / "report.json"
        self.memory = Path(tempfile.mkdtemp(prefix="smallkube-test-", dir="/dev/shm"))
        self.out = self.memory / "node2"
        self.path = f"{folder}/bin:{os.environ['PATH']}"
        (folder / "bin").mkdir()
        program = folder / "bin/nixos-anywhere"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} {self.report} "$@"\n')
        program.chmod(0o755)
        ready.close_machines()
        self.new_key()
        ready.done("nix.render")
        self.host(EXAMPLE)
        self.lock(folder)

    def new_key(self) -> None:
        self.ready.done("keys.new-host", "node2", "--out", str(self.out), "--replace")
        self.ready.done("keys.rekey")

    def host(self, example: str) -> None:
        """node2.nix: the example, its disk one that is here, with disko's stand-in and a key."""
        text = example.replace("node3-hardware", "node2-hardware")
        text = re.sub(r'"\$\{\s*builtins\.fetchTarball[^}]*\}\s*\}/module\.nix"', "./disko.nix", text)
        text = re.sub(r'(device = )"/dev[^"]*"', rf'\1"{self.disk}"', text)
        text = re.sub(r"(authorizedKeys\.keys = \[)[^\]]*\]", r'\1 "ssh-ed25519 AAAA me" ]', text)
        hosts = self.ready.workspace.hosts_dir
        (hosts / "node2.nix").write_text(text)
        shutil.copy(standins.SOURCE / "disko/module.nix", hosts / "disko.nix")

    def lock(self, folder: Path) -> None:
        """nix/flake.lock of the stand-ins, as Nix itself writes it."""
        flake = self.ready.workspace.flake_file
        write_tree({"flake.nix": flake.read_bytes()}, folder / "locked")
        words = ["flake", "lock", f"path:{folder}/locked"]
        for name, place in standins.inputs(self.ready.inventory.cluster, folder).items():
            words += ["--override-input", name, f"path:{place}"]
        argv = ["nix", "--extra-experimental-features", "nix-command flakes", *words]
        subprocess.run(argv, check=True, capture_output=True)
        shutil.copy(folder / "locked/flake.lock", flake.parent)

    @property
    def words(self) -> list[str]:
        target = ("--target", self.target, "--port", str(self.port))
        return ["nodes.install", "node2", "--extra-files", str(self.out), *target]

    def run(self, *more: str) -> "subprocess.CompletedProcess[str]":
        run: subprocess.CompletedProcess[str] = self.ready.inv(*self.words, *more, PATH=self.path)
        return run

    def refused(self, *more: str) -> str:
        """The last line of a refusal, after which the key is still there and nothing was started."""
        run = self.run("--yes", *more)
        assert run.returncode == 2, run.stdout + run.stderr
        assert (self.out / HOST_KEY).is_file() and not self.report.exists()
        assert not (self.ready.workspace.state_dir / "install/node2").exists()
        return run.stderr.strip().splitlines()[-1]

    @property
    def given(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.report.read_text())
        return found


@pytest.fixture
def site(ready: Any, server: Server, store: str, tmp_path: Path, disk: str) -> Iterator[Site]:
    made = Site(ready, server, tmp_path, disk)
    yield made
    shutil.rmtree(made.memory)


def test_a_machine_is_installed_with_its_host_key(site: Site) -> None:
    run = site.run("--yes")
    assert run.returncode == 0, run.stderr
    given, tree = site.given, site.ready.workspace.state_dir / "install/node2"
    stored = (site.ready.keys / "hosts/node2.pub").read_text().split()[1]
    assert (given["public"], given["device"]) == (stored, site.disk)
    assert "wgkube2.key.age" in given["secrets"] and len(given["secrets"]) == 5  # each was decrypted by the key
    assert given["modes"] == {
        **{".": 0o700, "etc": 0o755, "etc/ssh": 0o755},
        **{HOST_KEY: 0o600, f"{HOST_KEY}.pub": 0o644},
    }
    assert given["repository"] == str(tree)
    hardware = site.ready.workspace.hosts_dir / "node2-hardware.nix"
    assert (hardware.read_text(), run.stdout) == ("{ }\n", "installed node2\n")
    assert not site.out.exists() and not tree.exists()
    assert "not known whether node2 is a member" in run.stderr


def test_the_dry_run_prints_what_is_run(site: Site) -> None:
    planned = site.run("--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert not site.report.exists() and (site.out / HOST_KEY).is_file()
    assert f"would erase on 127.0.0.1: {site.disk} (main)" in planned.stderr
    value = json.loads(site.run("--dry-run", "--json").stdout)
    assert (value["erases"], value["target"]["port"]) == ({"main": site.disk}, site.server.port)
    run = site.run("--yes", "--build-on", "remote")
    assert run.returncode == 0, run.stderr
    argv = site.given["argv"]
    assert f"runs: {value['command'][0]} --flake " in run.stderr
    assert argv == [
        *(*value["command"][1:7], *value["command"][7:9], "--build-on", "remote"),
        *value["command"][9:],
    ]
    assert argv[argv.index("--target-host") + 1] == "root@127.0.0.1"


def test_no_secret_is_in_the_tree_or_the_command(site: Site) -> None:
    private = (site.out / HOST_KEY).read_text().splitlines()[1]
    run = site.run("--yes")
    files = [each for each in site.ready.workspace.root.rglob("*") if each.is_file()]
    assert private not in run.stdout + run.stderr + json.dumps(site.given)
    assert not [each for each in files if private.encode() in each.read_bytes()]


def test_a_failed_installation_removes_the_key(site: Site) -> None:
    site.report.with_suffix(".status").write_text("3")
    run = site.run("--yes")
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("node2: nixos-anywhere ended with exit status 3; the host key was removed; to try again,")
    assert "inv keys.new-host node2 --replace" in last and not site.out.exists()
    site.report.with_suffix(".status").unlink()
    site.new_key()
    assert site.run("--yes").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_removes_the_key(number: int, site: Site) -> None:
    site.report.with_suffix(".wait").touch()
    argv, environment = site.ready.command(*site.words, "--yes"), site.ready.environment(PATH=site.path)
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, env=environment, stderr=pipe, stdout=pipe, start_new_session=True, text=True) as run:
        deadline = time.monotonic() + 120
        while not site.report.with_suffix(".waiting").exists():
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        assert (site.out / HOST_KEY).is_file()
        os.killpg(run.pid, number)  # as a terminal does it
        _, errors = run.communicate(timeout=120)
    assert "Traceback" not in errors
    assert run.returncode == (130 if number == signal.SIGINT else 1), errors
    assert "the host key was removed" in errors.replace("its host key was removed", "the host key was removed")
    assert not site.out.exists() and not (site.ready.workspace.state_dir / "install/node2").exists()


def test_a_key_that_does_not_fit_is_refused(site: Site) -> None:
    other = site.memory / "other"
    site.ready.done("keys.new-host", "node2", "--out", str(other), "--replace")
    assert f"{HOST_KEY}: is not the key of keys/hosts/node2.pub; use the folder" in site.refused()
    shutil.move(site.out, site.memory / "before")
    shutil.move(other, site.out)
    assert "wgkube2.key.age" in site.run("--yes").stderr  # encrypted to the key before
    (site.out / HOST_KEY).write_text("no key\n")
    assert "not a private SSH key without a passphrase" in site.refused()


@pytest.mark.parametrize(("where", "mode"), [("disk", 0o700), ("memory", 0o755)])
def test_a_key_that_others_may_read_is_refused(where: str, mode: int, site: Site, tmp_path: Path) -> None:
    if where == "disk":
        kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True).stdout.strip()
        if kind in ("tmpfs", "ramfs"):
            pytest.skip("the folder for temporary files is in memory")
        shutil.copytree(site.out, tmp_path / "out")
        shutil.rmtree(site.out)
        site.out = tmp_path / "out"
    site.out.chmod(mode)
    assert "is not a private folder in memory (tmpfs)" in site.refused()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("\nin\n{", '\nin\nthrow "it is wrong" {', "can't be evaluated: it is wrong"),
        ('mountpoint = "/";', "", "nix/hosts/node2.nix: no file system"),
        ("authorizedKeys", "authorizedKeys.keys = [ ]; users.users.me.openssh.authorizedKeys", "no authorized SSH key"),
        ("systemd-boot.enable = true", "systemd-boot.enable = false", "no boot loader"),
        ("disko.devices.disk.main", 'fileSystems."/".device = "/x"; lab.main', "no disko.devices.disk, by which"),
        ("/dev/disk/by-id/nvme-CHANGE-ME", "/dev/none", "has no disk /dev/none, which nix/hosts/node2.nix names"),
    ],
)
def test_a_configuration_that_is_not_fit_is_refused(old: str, new: str, reason: str, site: Site) -> None:
    text = EXAMPLE if "CHANGE" in old else EXAMPLE.replace("/dev/disk/by-id/nvme-CHANGE-ME", site.disk)
    assert old in text
    site.disk = new if "CHANGE" in old else site.disk
    site.host(text.replace(old, new))
    if "authorizedKeys" in old:
        file = site.ready.workspace.hosts_dir / "node2.nix"
        file.write_text(re.sub(r'"ssh-ed25519[^"]*"', "", file.read_text()))
    assert reason in site.refused()


def test_a_machine_that_can_not_be_reached_is_refused(site: Site) -> None:
    site.port = 1
    assert re.search("can't log in to the machine: .*Connection refused", site.refused())
    site.port = site.server.port
    (site.server.folder / "authorized_keys").write_text("")
    assert "can't log in to the machine: root@127.0.0.1: Permission denied" in site.refused()


def test_a_node_of_a_running_cluster_is_refused(site: Site, tmp_path: Path) -> None:
    (tmp_path / "bin/systemctl").write_text('#!/bin/sh\n[ "$*" = "--quiet is-active kubelet.service" ]\n')
    (tmp_path / "bin/systemctl").chmod(0o755)
    (site.server.folder / "authorized_keys").write_text(
        f'environment="PATH={site.path}" {(site.server.folder / "user.pub").read_text()}'
    )
    assert "is a node of a running cluster: kubelet.service is active; remove it" in site.refused()


def test_without_a_terminal_nothing_is_erased(site: Site) -> None:
    run = site.run()
    assert run.returncode == 2 and "confirmation required; pass --yes" in run.stderr
    assert (site.out / HOST_KEY).is_file() and not site.report.exists()


@pytest.mark.parametrize(("typed", "installed"), [("y", False), ("node1", False), ("node2", True)])
def test_the_name_of_the_node_must_be_typed(typed: str, installed: bool, site: Site) -> None:
    ours, terminal = pty.openpty()
    argv, environment = site.ready.command(*site.words), site.ready.environment(PATH=site.path)
    with subprocess.Popen(argv, env=environment, stdin=terminal, stderr=terminal, stdout=subprocess.PIPE) as run:
        said = b""
        while b"[type node2]" not in said:
            said += os.read(ours, 4096)
        assert not site.report.exists()
        os.write(ours, f"{typed}\n".encode())
        assert run.wait(120) == (0 if installed else 2)
    assert f"erase {site.disk} (main) of root@127.0.0.1 and install node2?".encode() in said
    assert (site.report.exists(), site.out.exists()) == (installed, not installed)
    for end in (ours, terminal):
        os.close(end)


def test_wrong_words_are_refused(site: Site) -> None:
    assert "--build-on 'here': unknown; pass one of auto, local, remote" in site.refused("--build-on", "here")
    site.target = "root@-oProxyCommand=x"
    assert "not [USER@]HOST" in site.refused()
    site.target = "root@127.0.0.1"
    inventory = yaml.safe_load(site.ready.workspace.inventory_file.read_text())
    inventory["cluster"]["name"] = "other"
    site.ready.workspace.inventory_file.write_text(yaml.safe_dump(inventory))
    assert "not rendered from the inventory as it is now" in site.refused()
