"""Proves that a lab's machines are there and apart from this machine, and that nothing of a lab is left behind:
after it was taken down, after its processes were killed, after it was interrupted half-way.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import network, processes
from lab.cluster import Lab
from lab.machine import HUB
from lab.places import Places
from smallkube.core.errors import SmallkubeError, UsageError
from tests.lab.conftest import Up, made

REPOSITORY = Path(__file__).parents[2]


def footprint() -> dict[str, set[str]]:
    """What a lab could leave on this machine."""
    links = json.loads(subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout)
    routes = subprocess.run(["ip", "route", "show", "table", "all"], capture_output=True, text=True, check=True).stdout
    mounts = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    groups = {str(path) for path in Path("/sys/fs/cgroup").glob(f"*/smallkube-lab-*-{os.getpid()}-*")}
    return {
        "mounts": {mount for mount in mounts if "smallkube" in mount or "labs" in mount},
        "links": {link["ifname"] for link in links},
        "routes": set(routes.splitlines()),
        "groups": groups,
        "nspawn": {path.name for path in Path("/run/systemd/nspawn").glob(f"*/*-{os.getpid()}-*")},
        "namespaces": {path.name for path in Path("/run/netns").glob("*")},
    }


def test_machines_are_reached_with_their_own_host_keys(two_nodes: Up) -> None:
    for node in ("node1", "node2"):
        answer = two_nodes.ssh(node, "hostname")
        assert (answer.returncode, answer.stdout.strip()) == (0, node)
    assert two_nodes.lab.machine("node1").host_key != two_nodes.lab.machine("node2").host_key


def test_admin_becomes_root_without_a_password(two_nodes: Up) -> None:
    assert two_nodes.ssh("node1", "sudo", "-n", "id", "-u", user="admin").stdout.strip() == "0"
    assert two_nodes.ssh("node1", "id", "-u", user="admin").stdout.strip() != "0"


def test_machines_see_each_other_but_not_the_world(two_nodes: Up) -> None:
    node1 = two_nodes.lab.machine("node1")
    node1.check("ping", "-c1", "-W5", network.peer_address(2))
    assert node1.check("ip", "route", "show", "default") == ""


def test_systemd_is_up_and_nix_builds_offline(two_nodes: Up) -> None:
    node1 = two_nodes.lab.machine("node1")
    assert node1.check("systemctl", "is-system-running", "--wait").strip() == "running"
    expression = (
        'derivation { name = "x"; system = builtins.currentSystem; builder = "/bin/sh"; args = ["-c" "echo 1 >$out"]; }'
    )
    built = node1.check("nix-build", "--no-out-link", "-E", expression).strip()
    assert node1.check("cat", built) == "1\n"


def test_the_first_deploy_has_a_system_to_roll_back_to(two_nodes: Up) -> None:
    node1 = two_nodes.lab.machine("node1")
    system = node1.check("readlink", "-f", "/run/current-system").strip()
    assert system == node1.check("readlink", "-f", "/nix/var/nix/profiles/system").strip()
    assert node1.check(f"{system}/bin/switch-to-configuration", "dry-activate") == ""


def test_a_second_switch_at_the_same_time_is_refused(two_nodes: Up) -> None:
    script = (
        "exec 9>>/run/nixos/switch-to-configuration.lock; flock 9; /run/current-system/bin/switch-to-configuration test"
    )
    result = two_nodes.lab.machine("node2").execute(["bash", "-c", f"mkdir -p /run/nixos; {script}"])
    assert result.returncode == 1
    assert "another switch-to-configuration" in result.stderr


def test_the_workspace_fits_the_machines(two_nodes: Up) -> None:
    from smallkube.inventory.load import load

    inventory = load(two_nodes.workspace / "inventory.yaml")
    assert [(f"{node.ssh.host}:{node.ssh.port}", node.peer_ip) for node in inventory.nodes] == [
        (status.ssh, status.peer_ip) for status in two_nodes.lab.status()
    ]
    assert (two_nodes.workspace / ".smallkube/ssh_key").stat().st_mode & 0o777 == 0o600
    pins = json.loads((two_nodes.workspace / "nix/flake.lock").read_text())["nodes"]
    assert pins["nixpkgs"]["locked"]["narHash"].startswith("sha256-")


def test_power_cut_keeps_the_disk(two_nodes: Up) -> None:
    node2 = two_nodes.lab.machine("node2")
    node2.check("sh", "-c", "echo kept > /var/lib/mark; sync")
    node2.kill()
    assert not node2.running
    assert [status.state for status in two_nodes.lab.status()] == ["running", "off"]
    node2.start(two_nodes.lab.start_layers())
    assert node2.check("cat", "/var/lib/mark") == "kept\n"
    assert two_nodes.ssh("node2", "true").returncode == 0


def test_a_machine_comes_back_from_a_reboot(two_nodes: Up) -> None:
    node2 = two_nodes.lab.machine("node2")
    before = node2.init
    node2.execute(["systemctl", "reboot"])
    deadline = time.monotonic() + 60
    while node2.init in (None, before) or not node2.ssh_reachable:
        assert time.monotonic() < deadline, node2.console.read_text()
        time.sleep(0.05)  # or it would take the core on which the machine starts
    assert two_nodes.ssh("node2", "true").returncode == 0


def test_an_off_machine_is_refused_here_and_looked_for_nowhere(two_nodes: Up) -> None:
    node2 = two_nodes.lab.machine("node2")
    node2.stop()
    with (
        pytest.raises(ConnectionRefusedError),
        socket.create_connection((network.operator_address(node2.number, 2), network.SSH_PORT), timeout=5),
    ):
        pass
    with pytest.raises(SmallkubeError, match="node2: the machine is off"):
        node2.check("true")
    node2.start(two_nodes.lab.start_layers())


def test_services_and_commands_have_the_lab_s_gogc(two_nodes: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    node2 = two_nodes.lab.machine("node2")
    node2.stop()
    monkeypatch.setenv("GOGC", "350")
    node2.start(two_nodes.lab.start_layers())
    for command in ("env", "systemctl show-environment"):
        assert "GOGC=350" in node2.check(*command.split()).split()


def test_labs_stand_side_by_side_and_grow(two_nodes: Up, places: Places) -> None:
    with made(places, "other", 1) as other:
        assert other.lab.machine("node1").number != two_nodes.lab.machine("node1").number
        assert other.ssh("node1", "hostname").returncode == 0
        assert two_nodes.ssh("node1", "hostname").returncode == 0
        other.lab.up(2, None, lambda _text: None, lambda _node, _text: None)
        assert [status.state for status in other.lab.status()] == ["running", "running"]
        with pytest.raises(UsageError, match="another workspace"):
            other.lab.up(2, Path("/nonexistent"), lambda _text: None, lambda _node, _text: None)
    assert two_nodes.ssh("node1", "hostname").returncode == 0


def test_labs_of_one_name_in_two_state_folders_start_together(places: Places, tmp_path: Path) -> None:
    one, two = (Lab(Places(places.cache, tmp_path / state), f"twin-{os.getpid()}") for state in ("one", "two"))

    def up(lab: Lab) -> Path:
        return lab.up(1, None, lambda _text: None, lambda _node, _text: None)

    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(up, (one, two)))
        assert one.machine("node1").number != two.machine("node1").number
        processes.kill(one.folder)
        assert one.down()
        assert [status.state for status in two.status()] == ["running"]
        two.machine("node1").check("systemctl", "restart", "ssh")
    finally:
        one.down()
        two.down()


def test_down_leaves_nothing(places: Places) -> None:
    before = footprint()
    with made(places, "brief", 2) as up:
        assert footprint()["links"] == before["links"], "a lab's network is not this machine's"
        assert footprint()["routes"] == before["routes"]
        folder = up.lab.folder
    assert footprint() == before
    assert not folder.exists()
    assert list(folder.parent.glob(f"{folder.name}*")) == []
    assert processes.find(folder) == []


@pytest.mark.parametrize("victims", ["network", "supervisors", "all"])
def test_crashed_lab_is_cleaned(places: Places, victims: str) -> None:
    before = footprint()
    lab = Lab(places, f"crash-{victims}-{os.getpid()}")
    lab.up(1, None, lambda _text: None, lambda _node, _text: None)
    number = lab.machine("node1").number
    assert network.claim(number) is None
    if victims == "network":
        processes.kill(lab.folder, HUB)
    elif victims == "all":
        processes.kill(lab.folder)
    else:
        for process in processes.find(lab.folder):
            if process.name == "systemd-nspawn":
                os.kill(process.pid, signal.SIGKILL)
    said: list[str] = []
    lab.up(1, None, said.append, lambda _node, _text: None)
    assert [status.state for status in lab.status()] == ["running"]
    assert lab.machine("node1").number == number
    if victims == "network":
        assert any("cleaning up" in line for line in said)
    assert lab.down()
    assert not lab.down()
    assert footprint() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_lab_up_interrupted_is_cleaned_by_the_next_command(
    places: Places, tmp_path: Path, number: signal.Signals
) -> None:
    before = footprint()
    name = f"cut-{number.name.lower()}-{os.getpid()}"
    program = (
        "import sys; from pathlib import Path; from lab.cluster import Lab; from lab.places import Places\n"
        "Lab(Places(Path(sys.argv[1]), Path(sys.argv[2])), sys.argv[3]).up(3, None, print, lambda *_: None)"
    )
    argv = [sys.executable, "-c", program, str(places.cache), str(places.state), name]
    lab = Lab(places, name)
    with (tmp_path / "out").open("w") as sink:
        process = subprocess.Popen(argv, cwd=REPOSITORY, stdout=sink, stderr=sink)
        deadline = time.monotonic() + 60
        while not any(found.name == "systemd-nspawn" for found in processes.find(lab.folder)):
            assert time.monotonic() < deadline, (tmp_path / "out").read_text()
        process.send_signal(number)
        assert process.wait(timeout=60) != 0
    if number is signal.SIGINT:
        assert not lab.folder.exists()
    else:
        assert lab.down()
    assert footprint() == before
    assert processes.find(lab.folder) == []
