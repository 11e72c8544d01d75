"""What a machine's own configuration does to our interfaces, rules, names and ports is found when it is evaluated, and
what does nothing to them is left alone."""

from collections.abc import Mapping, Sequence

import pytest

from .conftest import Build, Describe

pytestmark = pytest.mark.integration

DECLARED = (
    *("boot.blacklistedKernelModules", "networking.wg-quick", "networking.wireguard", "security.lockKernelModules"),
    *(
        "services.bind",
        "services.dnsmasq",
        "services.k3s",
        "services.netbird",
        "services.rke2",
        "virtualisation.docker",
    ),
    "virtualisation.podman",
)
"""Options that NixOS has and the lab has not."""
OPTIONS = " ".join(f"options.{path} = lib.mkOption {{ type = lib.types.unspecified; }};" for path in DECLARED)
DEFINED = dict.fromkeys(DECLARED, "{ }") | {
    "boot.blacklistedKernelModules": "[ ]",
    "security.lockKernelModules": "false",
}


def host(settings: str) -> str:
    """A machine's file with these settings and, of each option that it leaves out, nothing."""
    defaults = " ".join(f"{path} = lib.mkDefault ({value});" for path, value in DEFINED.items())
    own = f"({{ config, ... }}: {{ {settings} }})"
    return f"{{ lib, ... }}: {{ {OPTIONS} imports = [ {own} ]; config = {{ {defaults} }}; }}"


BREAKS = {
    "networking.useNetworkd = lib.mkForce false;": "networkd makes brkube and wgkube",
    "systemd.network.enable = lib.mkForce false;": "networkd makes brkube and wgkube",
    "networking.firewall.enable = lib.mkForce false;": "networking.firewall must be on",
    "networking.firewall.filterForward = lib.mkForce false;": "networking.firewall must be on",
    'networking.firewall.backend = "firewalld";': "networking.firewall must be on",
    "networking.nftables.flushRuleset = lib.mkForce true;": "kube-proxy's rules with it",
    'networking.nftables.ruleset = "flush ruleset";': "kube-proxy's rules with it",
    "services.resolved.enable = lib.mkForce false;": "stub listener",
    'services.resolved.settings.Resolve.DNSStubListener = "no";': "stub listener",
    "services.resolved.settings.Resolve.DNSStubListener = false;": "stub listener",
    "networking.enableIPv6 = false;": "pods need IPv6",
    'boot.kernel.sysctl."net.ipv4.conf.all.forwarding" = false;': "net.ipv4.conf.all.forwarding",
    'boot.kernel.sysctl."net.ipv4.ip_forward" = "0";': "net.ipv4.ip_forward",
    'boot.kernel.sysctl."net.bridge.bridge-nf-call-iptables" = null;': "net.bridge.bridge-nf-call-iptables",
    'boot.kernel.sysctl."net.ipv6.conf.all.disable_ipv6" = 1;': "net.ipv6.conf.all.disable_ipv6",
    'boot.blacklistedKernelModules = [ "pcspkr" "wireguard" ];': "has wireguard, which pods or the tunnel need",
    'networking.firewall.trustedInterfaces = [ "brkube" ];': "lets pods reach every port",
    'systemd.network.networks."01-all" = { matchConfig.Name = "*"; };': "networks.01-all matches brkube or wgkube",
    'systemd.network.networks.lan = { matchConfig.Name = "br*"; };': None,
    'systemd.network.networks."10-a" = { matchConfig.Kind = "bridge"; };': "networks.10-a matches",
    'systemd.network.networks."05-b" = { matchConfig.Name = [ "eth0" "wg*" ]; };': "networks.05-b matches",
    'systemd.network.networks."05-c" = { matchConfig.Name = "!eth0"; };': "networks.05-c matches",
    'systemd.network.networks."05-d" = { matchConfig.Name = "!*kube"; matchConfig.Kind = "!veth"; };': None,
    'systemd.network.networks."05-e" = { enable = false; matchConfig.Name = "*"; };': None,
    'systemd.network.networks."05-f".matchConfig = { Name = "*"; MACAddress = "00:00:5e:00:53:01"; };': None,
    'systemd.network.networks."10-lan" = { matchConfig.Name = "en*"; address = [ "192.0.2.2/24" ]; };': None,
    'systemd.network.networks."20-x" = { name = "x"; address = [ "10.88.7.1/24" ]; };': "has 10.88.7.1/24, which are",
    'systemd.network.networks."20-x" = { name = "x"; addresses = [ { Address = "fd88:9::1/64"; } ]; };': "fd88:9::1/64",
    'systemd.network.networks."20-x" = { name = "x"; routes = [ { Destination = "10.88.0.0/16"; } ]; };': "10.88.0.0",
    'systemd.network.networks."20-x" = { name = "x"; routes = [ { Destination = "10.0.0.0/8"; } ]; };': None,
    'systemd.network.netdevs."30-wg0" = { netdevConfig.Name = "wg0"; wireguardConfig.ListenPort = 51820; };': "30-wg0",
    'systemd.network.netdevs."30-wg0" = { netdevConfig.Name = "wg0"; wireguardConfig.ListenPort = 51821; };': None,
    "networking.wireguard.interfaces.wg0.listenPort = 51820;": "networking.wireguard.interfaces.wg0 listens on port",
    "networking.wg-quick.interfaces.wg0.listenPort = 51820;": "networking.wg-quick.interfaces.wg0 listens on port",
    "networking.wg-quick.interfaces.wg0.listenPort = null;": None,
    "services.netbird.clients.default.port = 51820;": "services.netbird.clients.default listens on port 51820",
    "services.dnsmasq.enable = true;": "CoreDNS needs port 53 of 10.88.",
    "services.dnsmasq = { enable = true; settings.bind-interfaces = true; };": None,
    "services.dnsmasq = { enable = true; settings.port = 0; };": None,
    "services.bind.enable = true;": "services.bind",
    'services.bind = { enable = true; listenOnIpv6 = [ "::1" ]; };': None,
    'networking.hosts."192.0.2.1" = [ "api.k8s.internal" ];': "has api.k8s.internal, which are names of the cluster",
    'networking.hosts."127.0.0.2" = [ config.kube.nodeHost "node" ];': None,
    'networking.tempAddresses = "default";': None,
    "services.k3s.enable = true;": "services.k3s is another Kubernetes",
}
"""Settings → what the assertion says; None: they are nothing to us."""

MAY_BREAK = {
    'systemd.network.networks."50-lan".matchConfig.Type = "ether";': "50-lan also matches the interfaces of pods",
    'systemd.network.networks."50-lan".matchConfig = { Type = "ether"; Kind = "!*"; };': None,
    "networking.firewall.allowedTCPPorts = [ 443 10250 ];": "opens port 10250",
    "networking.firewall.interfaces.brkube.allowedTCPPortRanges = [ { from = 10000; to = 11000; } ];": "port 10250",
    'networking.nftables.tables.own = { family = "inet"; content = "chain f {\\n type filter hook forward priority 0; '
    'policy drop;\\n}"; };': "own: its policy drops",
    'networking.nftables.tables.own = { family = "inet"; content = "chain o { type filter hook output priority 0; '
    'policy drop; }"; };': None,
    "security.lockKernelModules = true;": "security.lockKernelModules",
    "virtualisation.podman.enable = true;": "podman gives addresses of the cluster",
    "virtualisation.podman = { enable = true; defaultNetwork.settings = { subnets = [ { } ]; }; };": None,
    "virtualisation.docker.enable = true;": None,
}
"""Settings → what the warning says."""


def chunks(cases: Mapping[str, str | None]) -> list[tuple[str, ...]]:
    """So many are evaluated at once, each as a node of one cluster."""
    return [tuple(cases)[start : start + 12] for start in range(0, len(cases), 12)]


def complaints(kind: str, cases: Sequence[str], build: Build, describe: Describe) -> dict[str, str]:
    """Settings → what is said of a node with them."""
    nodes = dict(enumerate(cases, 2))
    tree = build((1, *nodes))
    for index, settings in nodes.items():
        tree = tree.with_file(f"nix/hosts/node{index}.nix", host(settings))
    found = describe(tree)
    assert found["node1"][kind] == []
    return {settings: "\n".join(found[f"node{index}"][kind]) for index, settings in nodes.items()}


def surprising(found: Mapping[str, str], expected: Mapping[str, str | None]) -> dict[str, str]:
    """What was said otherwise than expected: one line, or nothing."""
    return {
        settings: said
        for settings, said in found.items()
        if "\n" in said or (said != "" if (wanted := expected[settings]) is None else wanted not in said)
    }


@pytest.mark.parametrize("cases", chunks(BREAKS))
def test_what_breaks_the_cluster_is_an_assertion(cases: Sequence[str], build: Build, describe: Describe) -> None:
    assert surprising(complaints("failedAssertions", cases, build, describe), BREAKS) == {}


@pytest.mark.parametrize("cases", chunks(MAY_BREAK))
def test_what_may_break_the_cluster_is_a_warning(cases: Sequence[str], build: Build, describe: Describe) -> None:
    assert surprising(complaints("warnings", cases, build, describe), MAY_BREAK) == {}


@pytest.mark.parametrize(
    "settings",
    [
        'networking.tempAddresses = "enabled";',
        'systemd.network.networks."20-lan" = { name = "eth0"; networkConfig.IPv6PrivacyExtensions = "yes"; };',
    ],
)
def test_temporary_addresses_matter_with_an_ipv6_peer(settings: str, build: Build, describe: Describe) -> None:
    tree = build((1, 2), addresses="2001:db8::{}").with_file("nix/hosts/node2.nix", host(settings))
    (failed,) = describe(tree)["node2"]["failedAssertions"]
    assert failed.startswith("the peers accept 2001:db8::2 alone")


def test_networkmanager_leaves_our_interfaces_alone(build: Build, describe: Describe) -> None:
    tree = build((1, 2)).with_file("nix/hosts/node2.nix", host("networking.networkmanager.enable = true;"))
    description = describe(tree)["node2"]
    assert (description["failedAssertions"], description["warnings"]) == ([], [])
