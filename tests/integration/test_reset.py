"""Proves reset.sh with real mounts, links and firewall tables, in namespaces of its own: what is ours goes, and nothing
else does. systemd and CRI-O are stand-ins that record what they are asked.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from smallkube.operations import machines, reset
from smallkube.remote import scripts

SCRIPT = Path(machines.__file__).with_name("scripts") / "reset.sh"
UNITS = ("kubelet.service", "crio.service", "kube-node-roles.timer", "kubepods.slice", "sshd.service")
SYSTEMCTL = """
for word; do last=$word; done
case $1 in
is-active) exit 1 ;;
--quiet) test -e "UNITS/$last" ;;
stop) shift; echo "stop $*" >>ASKED; cd UNITS && for word; do test -e STUCK/"$word" || rm -f "$word"; done ;;
list-units) shift; cd UNITS && for word; do case $word in -*) ;; *) ls -d $word 2>/dev/null ;; esac; done ;;
esac
"""
SETUP = """
set -e
ip link add wgkube type bridge
ip link add brkube type bridge
nft add table inet kube-guard
nft add table ip kube-nat
nft add table ip6 kube-nat
nft add table ip kube-proxy
nft add table inet nixos-fw
volume=ROOT/var/lib/kubelet/pods/x/volumes
mkdir -p "$volume/secret" "$volume/own data/deep" ROOT/data
mount -t tmpfs none "$volume/secret"
echo s >"$volume/secret/token"
mount --bind ROOT/data "$volume/own data"
mkdir -p ROOT/data/deep
mount -t tmpfs none "$volume/own data/deep"
set +e
"""
INSPECT = """
echo "status $?" >&2
{ nft list tables; ip -brief link; awk '{ print $5 }' /proc/self/mountinfo | grep ROOT/; } >ROOT/after
"""


class Machine:
    """Folders of a machine below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root, self.bin, self.units, self.stuck = root, root / "bin", root / "units", root / "stuck"
        for folder in (self.bin, self.units, self.stuck, root / "disk/containers/storage"):
            folder.mkdir(parents=True)
        for unit in UNITS:
            (self.units / unit).touch()
        for name in ("var/lib/etcd/member", "var/lib/smallkube/bundles", "var/log/pods/x", "run/agenix.d/1"):
            (root / name).mkdir(parents=True)
        (root / "var/lib/containers").symlink_to(root / "disk/containers")
        precious = ("var/lib/local-path-provisioner/data", "data/precious")
        for name in (*precious, "var/lib/etcd/member/db", "run/agenix.d/1/a"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("x")
        (root / "run/agenix.d/1/user-password").write_text("x")
        (root / "run/agenix").symlink_to(root / "run/agenix.d/1")
        text = SYSTEMCTL.replace("UNITS", str(self.units)).replace("ASKED", str(root / "asked"))
        self.program("systemctl", text.replace("STUCK", str(self.stuck)))
        self.program("crictl", f'echo "crictl $*" >>{root}/asked')

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)

    def run(self, setup: str = SETUP, *secrets: str) -> subprocess.CompletedProcess[str]:
        text = re.sub(r"(?<![\w$}])/(var|run)/", rf"{self.root}/\1/", machines.SCRIPTS.text("reset"))
        around = f'{setup}\nsh -c "$0" reset {" ".join(secrets)}\n{INSPECT}'.replace("ROOT", str(self.root))
        environment = {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"}
        argv = ["unshare", "--mount", "--net", "--propagation=private", "sh", "-c", around, text]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)

    def reset(self, setup: str = SETUP) -> reset.Done:
        done = self.run(setup, "a", "b")
        assert "status 0" in done.stderr, done.stderr
        return scripts.parse(done.stdout, reset.Done, "reset", "node3")

    @property
    def after(self) -> str:
        return (self.root / "after").read_text().replace(str(self.root), "ROOT")

    @property
    def asked(self) -> list[str]:
        return [" ".join(line.split()[:2]) for line in (self.root / "asked").read_text().splitlines()]


@pytest.fixture
def machine(tmp_path: Path, needs: Callable[[str, object, str], None]) -> Machine:
    tried = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False)
    needs("integration", tried.returncode == 0 and shutil.which("nft"), "root, with namespaces and nft")
    return Machine(tmp_path)


def test_what_is_ours_goes_and_nothing_else(machine: Machine) -> None:
    done = machine.reset()
    assert done.left == ()
    assert {*done.stopped} == {*UNITS} - {"sshd.service"}
    assert "nixos-fw" in machine.after and "kube" not in machine.after
    assert "ROOT" not in machine.after, "nothing is mounted any more"
    root = machine.root
    left = {path.name for path in (root / "var/lib").iterdir()}
    assert left == {"containers", "local-path-provisioner"}, "a link stays, and what it leads to is empty"
    assert (root / "data/precious").exists() and (root / "var/lib/local-path-provisioner/data").exists()
    assert [*(root / "disk").rglob("*")] == []
    assert [path.name for path in (root / "run/agenix.d/1").iterdir()] == ["user-password"]
    assert {"link wgkube", "link brkube", "table ip kube-proxy"} <= {*done.removed}


def test_the_kubelet_stops_before_pods_and_crio_after_them(machine: Machine) -> None:
    machine.reset()
    assert machine.asked == [
        "stop kube-node-roles.timer",
        "crictl --runtime-endpoint",
        "crictl --runtime-endpoint",
        "stop crio.service",
        "stop kubepods.slice",
    ]


def test_it_may_be_repeated(machine: Machine) -> None:
    machine.reset()
    again = machine.reset(setup="")
    assert again == reset.Done((), (), ())


def test_a_busy_volume_is_unmounted_and_not_emptied(machine: Machine) -> None:
    busy = '(cd "$volume/own data" && exec sleep 5 </dev/null >/dev/null 2>&1) &'
    assert machine.reset(f"{SETUP}\n{busy}\nwhile ! readlink /proc/$!/cwd | grep -q own; do :; done").left == ()
    assert (machine.root / "data/precious").exists()


def test_a_volume_that_stays_mounted_is_left_alone(machine: Machine) -> None:
    machine.program("umount", "exit 32")
    done = machine.reset()
    (left,) = done.left
    assert re.fullmatch(r"\S+/kubelet: \S+/volumes/\S.* is still mounted", left)
    assert (machine.root / "data/precious").exists()
    assert (machine.root / "var/lib/kubelet/pods").exists()
    assert not (machine.root / "var/lib/etcd").exists()


def test_units_that_do_not_stop_are_named(machine: Machine) -> None:
    (machine.stuck / "kubelet.service").touch()
    done = machine.reset()
    assert (done.left, done.removed) == (("kubelet.service still runs",), ())
    assert (machine.root / "var/lib/etcd/member/db").exists()


@pytest.mark.parametrize("armed", [True, False])
def test_a_deploy_that_is_under_way_is_left_alone(armed: bool, machine: Machine) -> None:
    if armed:
        (machine.units / "smallkube-rollback-1.timer").touch()
    else:
        (machine.root / "run/smallkube/lock").mkdir(parents=True)
        (machine.root / "run/smallkube/lock/owner").write_text("me@here")
    done = machine.run()
    expected = "a deploy is not confirmed: smallkube-rollback-1.timer" if armed else "a deploy is under way: me@here"
    assert expected in done.stderr and "status 1" in done.stderr
    assert (done.stdout, (machine.root / "var/lib/etcd/member/db").exists()) == ("", True)
    assert "kube-guard" in machine.after


def test_the_answer_is_json_whatever_the_names(machine: Machine) -> None:
    assert json.loads(machine.run().stdout)["script"] == "reset"
