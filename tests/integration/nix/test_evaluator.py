"""Proves that the evaluator does with options what NixOS does: unit texts, drop-ins, timers, /etc, tmpfiles, accounts,
activation order, packages; and that nothing that is set is ignored silently."""

import re

import pytest

from lab.checks.evaluate import Description
from lab.checks.systemd_text import section
from smallkube.core.errors import SmallkubeError

from .conftest import Build, Describe, Tree

pytestmark = pytest.mark.integration

HOST = "nix/hosts/node2.nix"


@pytest.fixture
def node(build: Build, describe: Describe) -> "Node":
    return Node(build((1, 2)), describe)


class Node:
    """node2 with more configuration of its own."""

    def __init__(self, tree: Tree, describe: Describe) -> None:
        self.tree = tree
        self._describe = describe

    def __call__(self, configuration: str) -> Description:
        text = f"{{ config, lib, pkgs, modulesPath, ... }}: {configuration}\n"
        return self._describe(self.tree.with_file(HOST, text))["node2"]


def test_scripts_become_programs_of_the_unit(node: Node) -> None:
    description = node(
        """{ systemd.services.s = {
          script = "echo main"; scriptArgs = "%n"; preStart = "echo before"; postStop = "echo after";
          path = [ pkgs.jq ]; environment = { A = "x y"; B = null; }; wantedBy = [ "multi-user.target" ];
          serviceConfig.ExecStartPre = lib.mkBefore [ "/first" ];
        }; }"""
    )
    unit = description["units"]["s.service"]
    keys = section(unit["text"], "Service").keys
    assert keys["ExecStartPre"][0] == "/first"
    for key, step, text in (
        ("ExecStartPre", "pre-start", "before"),
        ("ExecStart", "start", "main"),
        ("ExecStopPost", "post-stop", "after"),
    ):
        program = keys[key][-1].split()[0]
        assert program.endswith(f"/bin/s-{step}")
        script = description["scripts"][program.removesuffix(f"/bin/s-{step}")]
        assert script.split("\n", 1)[1] == f"set -e\n\necho {text}\n\n"
    assert keys["ExecStart"][0].endswith(" %n")
    path = next(value for value in keys["Environment"] if value.startswith('"PATH='))
    programs = ["jq", "coreutils", "findutils", "gnugrep", "gnused", "systemd"]
    assert re.findall(r"pkgs/([a-z-]+)/bin", path) == programs
    assert '"A=x y"' in keys["Environment"]
    assert not any(value.startswith('"B=') for value in keys["Environment"])
    assert unit["wantedBy"] == ["multi-user.target"]


def test_what_a_switch_does_with_a_unit_stands_in_its_text(node: Node) -> None:
    description = node(
        """{ systemd.services = {
          a = { restartIfChanged = false; stopIfChanged = false; serviceConfig.ExecStart = "/a"; };
          b = { reloadIfChanged = true; restartTriggers = [ "x" ]; serviceConfig.ExecStart = "/b"; };
        }; }"""
    )
    a = section(description["units"]["a.service"]["text"], "Service").keys
    assert (a["X-RestartIfChanged"], a["X-StopIfChanged"]) == (["false"], ["false"])
    b = description["units"]["b.service"]["text"]
    assert section(b, "Service").keys["X-ReloadIfChanged"] == ["true"]
    assert description["files"][section(b, "Unit").last("X-Restart-Triggers")] == "x"


def test_units_that_systemd_brings_are_only_added_to(node: Node) -> None:
    units = node('{ systemd.services.systemd-journald.serviceConfig.X = 1; systemd.services.mine.script = "true"; }')[
        "units"
    ]
    assert (units["systemd-journald.service"]["dropin"], units["mine.service"]["dropin"]) == (True, False)


def test_timers_paths_and_mounts(node: Node) -> None:
    units = node(
        """{ systemd.services.t = { script = "true"; startAt = "03:00"; };
          systemd.paths.p.pathConfig.PathChanged = "/x";
          systemd.sockets.s.listenStreams = [ "/run/s" ];
          systemd.targets.g.wants = [ "t.service" ];
          systemd.mounts = [ { what = "tmpfs"; where = "/var/my-dir"; type = "tmpfs"; } ]; }"""
    )["units"]
    assert section(units["t.timer"]["text"], "Timer").keys == {"OnCalendar": ["03:00"]}
    assert units["t.timer"]["wantedBy"] == ["timers.target"]
    assert section(units["p.path"]["text"], "Path").keys == {"PathChanged": ["/x"]}
    assert section(units["s.socket"]["text"], "Socket").keys == {"ListenStream": ["/run/s"]}
    assert section(units["g.target"]["text"], "Unit").keys == {"Wants": ["t.service"]}
    assert section(units["var-my\\x2ddir.mount"]["text"], "Mount").last("Where") == "/var/my-dir"


def test_files_in_etc(node: Node) -> None:
    files = node(
        """{ environment.etc = {
          a.text = "A"; b = { source = pkgs.writeText "b" "B"; mode = "0600"; user = "systemd-network"; };
          c = { text = "C"; enable = false; }; d = { target = "e/f"; source = ./node1.nix; };
        }; }"""
    )["etc"]
    assert files["a"] == {"text": "A", "source": None, "mode": "symlink", "user": "root", "group": "root"}
    assert (files["b"]["text"], files["b"]["mode"], files["b"]["user"]) == ("B", "0600", "systemd-network")
    assert "c" not in files
    assert files["e/f"]["text"] is None


def test_two_sources_of_one_file_conflict_unless_one_is_forced(node: Node) -> None:
    definition = 'environment.etc."crictl.yaml".text'
    with pytest.raises(SmallkubeError, match="conflicting definition values"):
        node(f'{{ {definition} = "mine"; }}')
    forced = node(f'{{ {definition} = lib.mkForce "mine"; }}')
    assert forced["etc"]["crictl.yaml"]["text"] == "mine"


def test_tmpfiles_sysctl_and_modules(node: Node) -> None:
    description = node(
        """{ systemd.tmpfiles.rules = [ "d /a 0755 root root -" ];
          systemd.tmpfiles.settings.mine."/b c".d = { mode = "0700"; user = "root"; };
          boot.kernel.sysctl = { "a.b" = true; "a.c" = false; "a.d" = null; "a.e" = "1 2"; };
          boot.kernelModules = [ "x" ]; }"""
    )
    assert description["tmpfiles"] == ["d /a 0755 root root -", 'd "/b c" 0700 root - -']
    assert {key: value for key, value in description["sysctl"].items() if key.startswith("a.")} == {
        "a.b": "1",
        "a.c": "0",
        "a.e": "1 2",
    }
    assert set(description["kernelModules"]) == {"br_netfilter", "x"}


def test_networkds_settings_come_with_its_files(node: Node) -> None:
    description = node("{ systemd.network.config.networkConfig.SpeedMeter = true; }")
    assert description["etc"]["systemd/networkd.conf"]["text"] == "[Network]\nSpeedMeter=true\n"
    assert set(description["networkd"]) == {
        "10-brkube.netdev",
        "10-brkube.network",
        "10-kube-pods.link",
        "11-wgkube.netdev",
        "11-wgkube.network",
    }


def test_accounts(node: Node) -> None:
    description = node(
        """{ users.users.root.openssh.authorizedKeys.keys = [ "ssh-ed25519 AAAA you" ];
          users.users.op = { isNormalUser = true; extraGroups = [ "wheel" ]; };
          users.users.op.openssh.authorizedKeys.keys = [ "k1" "k2" ];
          users.users.d = { isSystemUser = true; group = "d"; uid = 990; }; users.groups.d.gid = 990; }"""
    )
    assert set(description["users"]) == {"op", "d"}
    op = description["users"]["op"]
    assert (op["group"], op["home"], op["createHome"], op["isSystemUser"]) == ("users", "/home/op", True, False)
    assert (description["users"]["d"]["uid"], description["groups"]["d"]) == (990, {"gid": 990, "members": []})
    assert description["etc"]["ssh/authorized_keys.d/root"]["text"] == "ssh-ed25519 AAAA you\n"
    assert description["etc"]["ssh/authorized_keys.d/op"] == {
        "text": "k1\nk2\n",
        "source": None,
        "mode": "0444",
        "user": "root",
        "group": "root",
    }


def test_accounts_that_nixos_refuses(node: Node) -> None:
    failed = node("{ users.users.x = { }; }")["failedAssertions"]
    assert any("isSystemUser" in message for message in failed)
    assert any("users.users.x.group is unset" in message for message in failed)


def test_activation_scripts_come_after_what_they_depend_on(node: Node) -> None:
    scripts = node(
        """{ system.activationScripts = {
          a = { text = "echo a"; deps = [ "z" "agenix" ]; }; z = "echo z"; b = lib.stringAfter [ "users" ] "echo b";
        }; }"""
    )["activationScripts"]
    order = [script["name"] for script in scripts]
    for first, then in (
        ("z", "a"),
        ("agenix", "a"),
        ("agenixInstall", "users"),
        ("users", "agenixChown"),
        ("users", "b"),
    ):
        assert order.index(first) < order.index(then)
    assert [script["text"] for script in scripts if script["name"] in "abz"] == ["echo z", "echo a", "echo b"]


@pytest.mark.parametrize(
    ("scripts", "message"),
    [
        ('a = { text = ""; deps = [ "b" ]; }; b = { text = ""; deps = [ "a" ]; };', "in a circle: .*a.*b.*a"),
        ('a = { text = ""; deps = [ "nothing" ]; };', "depends on `nothing'"),
    ],
)
def test_activation_scripts_that_can_not_be_ordered(scripts: str, message: str, node: Node) -> None:
    with pytest.raises(SmallkubeError, match=message):
        node(f"{{ system.activationScripts = {{ {scripts} }}; }}")


def test_agenix_as_a_service_where_nixos_makes_users_late(node: Node) -> None:
    description = node("{ systemd.sysusers.enable = true; }")
    assert "agenix-install-secrets.service" in description["units"]
    assert "agenix" not in [script["name"] for script in description["activationScripts"]]
    assert description["unsupported"] == ["systemd.sysusers.enable"]


def test_without_ssh_there_are_no_identities(node: Node) -> None:
    failed = node("{ services.openssh.enable = lib.mkForce false; }")["failedAssertions"]
    assert any("age.identityPaths must be set" in message for message in failed)


def test_ssh_opens_its_ports(node: Node) -> None:
    assert "tcp dport { 22, 2222 } accept" in node("{ services.openssh.ports = [ 22 2222 ]; }")["nftables"]
    closed = node("{ services.openssh.openFirewall = false; }")["nftables"]
    assert "tcp dport { 22 }" not in closed


def test_the_firewalls_own_options(node: Node) -> None:
    rules = node(
        """{ networking.firewall = {
          allowedTCPPorts = [ 443 80 80 ]; allowedUDPPortRanges = [ { from = 10; to = 20; } ];
          trustedInterfaces = [ "lab0" ]; interfaces.eth1.allowedTCPPorts = [ 9 ];
          checkReversePath = "loose"; rejectPackets = true; pingLimit = "2/second";
          extraInputRules = "tcp dport 1 accept\\ntcp dport 2 accept";
        }; }"""
    )["nftables"]
    for rule in (
        "tcp dport { 22, 80, 443 } accept",
        "udp dport { 10-20 } accept",
        'iifname "eth1" tcp dport { 9 } accept',
        "fib saddr . mark oif exists accept",
        "meta l4proto tcp reject with tcp reset",
        "icmp type echo-request limit rate 2/second accept",
        "    tcp dport 1 accept\n    tcp dport 2 accept\n",
    ):
        assert rule in rules
    assert re.search(r'iifname \{ ("lab0", "lo"|"lo", "lab0") \} accept', rules)


def test_a_persons_options_that_the_lab_does_not_know_are_listed(node: Node) -> None:
    description = node(
        """{ imports = map (file: modulesPath + file) [ "/installer/scan/not-detected.nix" "/profiles/qemu-guest.nix" ];
          boot.loader.systemd-boot.enable = true; time.timeZone = "UTC";
          hardware.a = lib.mkIf true { b = lib.mkForce [ 1 ]; };
          networking.hostName = "x"; users.users.root.hashedPassword = "!"; }"""
    )
    assert description["unsupported"] == [
        "boot.loader.systemd-boot.enable",
        "hardware.a.b",
        "networking.hostName",
        "time.timeZone",
        "users.users.root.hashedPassword",
    ]
    assert description["failedAssertions"] == []
    assert node('{ networking.hostName = "node2"; }')["unsupported"] == []


def test_an_unknown_option_in_a_module_is_an_error_with_its_file(build: Build, describe: Describe) -> None:
    tree = build((1, 2)).replacing("nix/modules/base.nix", "config = {", "config = { services.corends.enable = true;")
    with pytest.raises(SmallkubeError, match=r"`services\.corends\.enable'.*nix/modules/base\.nix"):
        describe(tree)


def test_an_error_names_option_values_and_files(node: Node) -> None:
    with pytest.raises(SmallkubeError, match=r"kube\.mtu.*not of type.*nix/hosts/node2\.nix") as caught:
        node('{ kube.mtu = lib.mkForce "big"; }')
    assert "\n" not in str(caught.value)


def test_a_failed_assertion_is_reported_and_stops_a_build(node: Node) -> None:
    message = "it does not fit"
    description = node(f'{{ assertions = [ {{ assertion = false; message = "{message}"; }} ]; warnings = [ "hm" ]; }}')
    assert (description["failedAssertions"], description["warnings"]) == ([message], ["hm"])


def test_a_node_that_is_not_among_the_peers(build: Build, describe: Describe) -> None:
    tree = build((1, 2)).with_file("keys/peers.json", '[{"PublicKey": "AA==", "PeerIP": "192.0.2.1"}, null]')
    assert describe(tree)["node2"]["failedAssertions"]
