"""Proves that a lab machine applies a system as NixOS does, on real systemd: what restarts, stops, stays and fails;
users, files, settings; what is missing stays inactive and is reported; what the profile names is what boots.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.machine import Machine, Result
from tests.lab.conftest import Up

EXPRESSION = """
derivation {
  name = "nixos-system-test";
  system = builtins.currentSystem;
  builder = "/usr/bin/python3";
  args = [ "/opt/smallkube-lab/bin/build-system" ];
  description = builtins.readFile /root/description.json;
  passAsFile = [ "description" ];
}
"""
Units = dict[str, str]


def service(command: str, *more: str) -> str:
    return "\n".join(["[Service]", f"ExecStart={command}", *more, ""])


SLEEP = "/usr/bin/sleep infinity"


def switch(machine: Machine, units: Units, action: str = "test", **description: Any) -> Result:
    """Build a system with these units, all wanted by multi-user.target, and switch to it."""
    wanted = {name: {"text": text, "wantedBy": ["multi-user.target"]} for name, text in units.items()}
    machine.check("tee", "/root/description.json", stdin=json.dumps({"units": wanted, **description}))
    built = machine.check("nix-build", "--no-out-link", "-E", EXPRESSION).strip()
    if action in ("switch", "boot"):
        machine.check("nix-env", "-p", "/nix/var/nix/profiles/system", "--set", built)
    return machine.execute([f"{built}/bin/switch-to-configuration", action])


def state(machine: Machine, unit: str) -> str:
    return machine.execute(["systemctl", "is-active", unit]).stdout.strip()


def started(machine: Machine, unit: str) -> str:
    return machine.check("systemctl", "show", "--property=InvocationID", "--value", unit).strip()


@pytest.fixture
def node(two_nodes: Up) -> Iterator[Machine]:
    """A machine that goes back to the system it was delivered with."""
    machine = two_nodes.lab.machine("node1")
    yield machine
    machine.check("nix-env", "-p", "/nix/var/nix/profiles/system", "--switch-generation", "1")
    machine.check("/nix/var/nix/profiles/system/bin/switch-to-configuration", "test")


def test_what_restarts_stops_and_stays(node: Machine) -> None:
    first = {
        "t-same.service": service(SLEEP),
        "t-changed.service": service(SLEEP),
        "t-kept.service": service(SLEEP),
        "t-gone.service": service(SLEEP),
        "t-reload.service": service(SLEEP, "ExecReload=/usr/bin/touch /run/t-reloaded", "X-ReloadIfChanged=true"),
    }
    assert switch(node, first).returncode == 0
    assert all(state(node, unit) == "active" for unit in first)
    before = {unit: started(node, unit) for unit in first}

    second = {unit: text + "Environment=A=1\n" for unit, text in first.items() if unit != "t-gone.service"}
    second["t-same.service"] = first["t-same.service"]
    second["t-kept.service"] += "X-RestartIfChanged=false\n"
    second["t-new.service"] = service(SLEEP)
    result = switch(node, second)
    assert result.returncode == 0
    after = {unit: started(node, unit) for unit in second}
    assert after["t-same.service"] == before["t-same.service"]
    assert after["t-kept.service"] == before["t-kept.service"]
    assert after["t-reload.service"] == before["t-reload.service"]
    assert after["t-changed.service"] != before["t-changed.service"]
    assert (state(node, "t-gone.service"), state(node, "t-new.service")) == ("inactive", "active")
    node.check("test", "-e", "/run/t-reloaded")
    assert "NOT restarting the following changed units: t-kept.service" in result.stderr
    assert "stopping the following units: t-changed.service, t-gone.service" in result.stderr
    assert node.execute(["test", "-e", "/etc/systemd/system/t-gone.service"]).returncode == 1


def test_failing_units_are_named_with_status_4(node: Machine) -> None:
    result = switch(
        node, {"t-bad.service": service("/usr/bin/false", "Type=oneshot"), "t-good.service": service(SLEEP)}
    )
    assert result.returncode == 4
    assert "the following units failed: t-bad.service" in result.stderr
    assert state(node, "t-good.service") == "active"


def test_a_unit_without_its_program_is_reported_inactive(node: Machine) -> None:
    program = "/opt/smallkube-lab/pkgs/kubernetes/bin/kubelet"
    result = switch(node, {"t-kubelet.service": service(program)})
    assert result.returncode == 0
    assert state(node, "t-kubelet.service") == "inactive"
    assert node.report()["missing"] == {"t-kubelet.service": [program]}
    assert "t-kubelet.service stays inactive: not here: kubelet" in result.stderr


def test_a_dry_run_changes_nothing(node: Machine) -> None:
    result = switch(node, {"t-dry.service": service(SLEEP)}, "dry-activate")
    assert result.returncode == 0
    assert node.execute(["test", "-e", "/etc/systemd/system/t-dry.service"]).returncode == 1


def test_files_accounts_settings_and_scripts(node: Machine) -> None:
    etc = {
        "t/link": {"text": "linked", "source": None, "mode": "symlink", "user": "root", "group": "root"},
        "t/copy": {"text": "copied", "source": None, "mode": "0640", "user": "t-user", "group": "t-group"},
    }
    user = {"uid": None, "group": "t-group", "isSystemUser": True, "home": "/var/empty", "shell": None}
    description: dict[str, Any] = {
        "etc": etc,
        "users": {"t-user": {**user, "extraGroups": []}},
        "groups": {"t-group": {"gid": None, "members": []}},
        "sysctl": {"net.ipv4.ip_forward": "1", "net.no.such": "1"},
        "tmpfiles": ["d /run/t-folder 0711 t-user t-group -"],
        "activationScripts": [{"name": "t", "text": "echo $systemConfig > /run/t-script; false"}],
        "hosts": "127.0.0.1 localhost\n10.1.2.3 t-name\n",
        "kernelModules": ["t_no_such_module"],
    }
    result = switch(node, {}, **description)
    assert result.returncode == 2, "a failing activation script is said, and the rest is done"
    assert node.check("stat", "-c", "%a %U %G", "/etc/t/copy").split() == ["640", "t-user", "t-group"]
    assert node.check("cat", "/etc/t/link") == "linked"
    assert node.check("stat", "-c", "%a %U", "/run/t-folder").split() == ["711", "t-user"]
    assert node.check("cat", "/run/t-script").startswith("/nix/store/")
    assert node.check("cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
    assert node.check("getent", "hosts", "t-name").split()[0] == "10.1.2.3"
    kernel = " ".join(str(line) for line in node.report()["kernel"])  # type: ignore[attr-defined]
    assert "net.no.such" in kernel
    assert "t_no_such_module" in kernel

    assert switch(node, {}).returncode == 0
    assert node.execute(["id", "t-user"]).returncode != 0
    assert node.execute(["test", "-e", "/etc/t"]).returncode == 1


def test_secrets_have_owner_and_mode_and_end_with_the_generation(node: Machine, tmp_path: Path) -> None:
    def encrypt(recipient: str) -> str:
        argv = ["age", "--encrypt", "--armor", "--recipient", recipient]
        return subprocess.run(argv, input="told", capture_output=True, text=True, check=True).stdout

    foreign = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", foreign], check=True)
    node.check("tee", "/root/mine.age", stdin=encrypt(node.host_key.rsplit(" ", 1)[0]))
    node.check("tee", "/root/foreign.age", stdin=encrypt(Path(f"{foreign}.pub").read_text().rsplit(" ", 1)[0]))
    mine = {"file": "/root/mine.age", "path": "/run/agenix/mine", "mode": "0440", "owner": "0", "group": "daemon"}
    identity = ["/etc/ssh/ssh_host_ed25519_key"]

    assert switch(node, {}, secrets={"mine": mine}, identityPaths=identity).returncode == 0
    assert node.check("cat", "/run/agenix/mine") == "told"
    assert node.check("stat", "-L", "-c", "%a %U %G", "/run/agenix/mine").split() == ["440", "root", "daemon"]
    assert node.check("stat", "-f", "-c", "%T", "/run/agenix/").strip() == "ramfs"

    other = {**mine, "file": "/root/foreign.age", "path": "/run/agenix/other"}
    result = switch(node, {}, secrets={"other": other}, identityPaths=identity)
    assert result.returncode == 2
    assert "secret other can't be decrypted" in result.stderr
    assert node.check("ls", "/run/agenix/") == "", "as with agenix, the generation flips all the same"


def test_a_power_cut_reverts_what_was_not_committed(node: Machine, two_nodes: Up) -> None:
    assert switch(node, {"t-committed.service": service(SLEEP)}, "switch").returncode == 0
    assert switch(node, {"t-tried.service": service(SLEEP)}, "test").returncode == 0
    assert (state(node, "t-committed.service"), state(node, "t-tried.service")) == ("inactive", "active")
    node.kill()
    node.start(two_nodes.lab.start_layers())
    node.execute(["systemctl", "is-system-running", "--wait"])
    assert (state(node, "t-committed.service"), state(node, "t-tried.service")) == ("active", "inactive")
