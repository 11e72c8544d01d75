"""Proves which units a switch stops, reloads, restarts and starts, by NixOS' rules, and how unit files are read."""

import pytest

from lab.node import plan, toplevel, unitfile, wireguard
from lab.node.plan import Plan, Unit
from lab.node.unitfile import Change

BASE = "[Unit]\nDescription=a\n[Service]\nExecStart=/bin/a\n"


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        (BASE, BASE, Change.NONE),
        (BASE, BASE.replace("=a", "=b", 1), Change.NONE),
        (BASE, BASE + "# a comment\n", Change.NONE),
        (BASE, BASE + "[Install]\nWantedBy=x.target\n", Change.NONE),
        (BASE, BASE.replace("/bin/a", "/bin/b"), Change.RESTART),
        (BASE, BASE + "[Unit]\nX-Restart-Triggers=/nix/store/b\n", Change.RESTART),
        (BASE, BASE + "[Unit]\nX-Reload-Triggers=/nix/store/b\n", Change.RELOAD),
        (BASE, BASE + "[Unit]\nX-Reload-Triggers=b\n[Service]\nUser=x\n", Change.RESTART),
        ("[Mount]\nOptions=ro\n", "[Mount]\nOptions=rw\n", Change.RELOAD),
        ("[Mount]\nWhat=a\n", "[Mount]\nWhat=b\n", Change.RESTART),
    ],
)
def test_what_a_change_asks_for(old: str, new: str, change: Change) -> None:
    assert unitfile.compare(old, new) is change


def test_unit_files_are_read_as_systemd_reads_them() -> None:
    text = "; no\n[Service]\nExecStart=/a \\\n  --b\nEnvironment=X=1\nEnvironment=\nEnvironment=Y=2\n"
    assert unitfile.parse(text) == {"Service": {"ExecStart": ["/a  --b"], "Environment": ["Y=2"]}}
    assert unitfile.commands("[Service]\nExecStartPre=-+/a b\nExecStart=@/c d\n") == ["/a b", "/c d"]


CHANGED = BASE.replace("/bin/a", "/bin/b")


def service(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "state", "expected"),
    [
        (Unit(BASE), Unit(BASE), "active", Plan()),
        (Unit(BASE), Unit(CHANGED), "inactive", Plan()),
        (Unit(BASE), Unit(CHANGED), "failed", Plan()),
        (Unit(BASE), Unit(CHANGED), "active", Plan(stop=("a.service",), start=("a.service",))),
        (Unit(BASE), Unit(CHANGED), "activating", Plan(stop=("a.service",), start=("a.service",))),
        (Unit(BASE), Unit(CHANGED + "X-StopIfChanged=false\n"), "active", Plan(restart=("a.service",))),
        (Unit(BASE), Unit(CHANGED + "X-RestartIfChanged=false\n"), "active", Plan(skip=("a.service",))),
        (Unit(BASE), Unit(CHANGED + "[Unit]\nRefuseManualStop=true\n"), "active", Plan(skip=("a.service",))),
        (Unit(BASE), Unit(CHANGED + "X-ReloadIfChanged=true\n"), "active", Plan(reload=("a.service",))),
        (Unit(BASE), Unit(BASE + "[Unit]\nX-Reload-Triggers=x\n"), "active", Plan(reload=("a.service",))),
        (Unit(BASE), None, "active", Plan(stop=("a.service",))),
        (Unit(BASE + "[Unit]\nX-StopOnRemoval=false\n"), None, "active", Plan()),
        (Unit(BASE), Unit("", masked=True), "active", Plan(stop=("a.service",))),
        (None, Unit(BASE), "inactive", Plan()),
        (None, Unit(BASE + "X-StopIfChanged=false\n", dropin=True), "active", Plan(restart=("a.service",))),
        (Unit(BASE, dropin=True), None, "active", Plan(stop=("a.service",), start=("a.service",))),
    ],
)
def test_one_service(old: Unit | None, new: Unit | None, state: str, expected: Plan) -> None:
    before = {"a.service": old} if old else {}
    after = {"a.service": new} if new else {}
    assert plan.make(before, after, {"a.service": state}, frozenset()) == expected


def test_other_kinds_of_units() -> None:
    names = ("a.path", "a.slice", "a.socket", "a.mount", "a.target", "b@1.service")
    old = {name: Unit("[Unit]\nAfter=x\n") for name in (*names[:-1], "b@.service")}
    new = {name: Unit("[Unit]\nAfter=y\n") for name in old}
    made = plan.make(old, new, dict.fromkeys(names, "active"), frozenset({"a.target", "idle.target"}))
    assert made.restart == ("a.mount", "a.socket")
    assert (made.stop, made.start) == (("b@1.service",), ("b@1.service",))
    assert made.targets == ("a.target",)


def test_missing_programs_are_found_through_scripts_and_path() -> None:
    script = "/nix/store/00000000000000000000000000000000-start"
    inner = "/nix/store/11111111111111111111111111111111-inner/bin/inner"
    pkgs = "/opt/smallkube-lab/pkgs"
    texts = {script: f'export PATH="{pkgs}/kubernetes/bin:$PATH"\n{inner}', inner: f"exec {pkgs}/etcd/bin/etcd --x"}
    unit = f'[Service]\nEnvironment="PATH={pkgs}/coreutils/bin:{pkgs}/coreutils/sbin"\nExecStart=-{script} --flag\n'
    assert toplevel.programs_of(unit, lambda path: texts.get(path, "")) == {
        f"{pkgs}/kubernetes/bin",
        f"{pkgs}/etcd/bin/etcd",
        f"{pkgs}/coreutils/bin",
    }


NETDEV = """\
[NetDev]
Kind=wireguard
MTUBytes=1400
Name=wgkube

[WireGuard]
ListenPort=51820
PrivateKeyFile=/run/agenix/wgkube.key

[WireGuardPeer]
AllowedIPs=fd88:2::/32
AllowedIPs=10.88.2.0/24
Endpoint=192.168.88.2:51820
PersistentKeepalive=25
PublicKey=abc=
"""


def test_wireguard_settings_come_from_the_netdev_file() -> None:
    assert wireguard.settings(NETDEV, lambda path: f"KEY OF {path}\n") == (
        "[Interface]\nListenPort = 51820\nPrivateKey = KEY OF /run/agenix/wgkube.key\n"
        "[Peer]\nAllowedIPs = fd88:2::/32\nAllowedIPs = 10.88.2.0/24\nEndpoint = 192.168.88.2:51820\n"
        "PersistentKeepalive = 25\nPublicKey = abc=\n"
    )
    assert wireguard.mtu(NETDEV) == "1400"


def test_wireguard_keeps_its_device_when_networkd_restarts() -> None:
    one = wireguard.units({"11-wgkube.netdev": NETDEV, "10-br.netdev": "[NetDev]\nKind=bridge\nName=br\n"})
    two = wireguard.units({"11-wgkube.netdev": NETDEV.replace("2.0/24", "3.0/24")})
    device, settings = "lab-wireguard-wgkube.service", "lab-wireguard-wgkube-settings.service"
    assert list(one) == [device, settings]
    assert one == two
    bound = "PartOf=systemd-networkd.service\n"
    assert (bound in one[device]["text"], bound in one[settings]["text"]) == (False, True)
