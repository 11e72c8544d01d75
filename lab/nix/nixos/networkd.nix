# The files of systemd-networkd (NixOS 25.11: nixos/lib/systemd-network-units.nix, system/boot/networkd.nix).
{ config, lib, pkgs, ... }:
let
  inherit (import ./sections.nix { inherit lib; }) section sectionIfAny;
  cfg = config.systemd.network;
  each = name: lib.concatMapStrings (set: section name set + "\n");
  repeated = key: lib.concatMapStrings (value: "${key}=${value}\n");

  netdev = d: sectionIfAny "Match" d.matchConfig
    + section "NetDev" d.netdevConfig + "\n"
    + sectionIfAny "Bridge" d.bridgeConfig
    + sectionIfAny "VLAN" d.vlanConfig
    + sectionIfAny "VXLAN" d.vxlanConfig
    + sectionIfAny "Bond" d.bondConfig
    + sectionIfAny "Tun" d.tunConfig
    + sectionIfAny "WireGuard" d.wireguardConfig
    + each "WireGuardPeer" d.wireguardPeers
    + d.extraConfig;

  network = n: sectionIfAny "Match" n.matchConfig
    + sectionIfAny "Link" n.linkConfig
    + section "Network" n.networkConfig
    + repeated "Address" n.address
    + repeated "Gateway" n.gateway
    + repeated "DNS" n.dns
    + repeated "NTP" n.ntp
    + repeated "Bridge" n.bridge
    + repeated "Bond" n.bond
    + repeated "VLAN" n.vlan
    + repeated "VXLAN" n.vxlan
    + repeated "MACVLAN" n.macvlan
    + repeated "Tunnel" n.tunnel
    + "\n"
    + each "Address" n.addresses
    + each "RoutingPolicyRule" n.routingPolicyRules
    + each "Route" n.routes
    + sectionIfAny "DHCPv4" n.dhcpV4Config
    + sectionIfAny "DHCPv6" n.dhcpV6Config
    + sectionIfAny "IPv6AcceptRA" n.ipv6AcceptRAConfig
    + sectionIfAny "Bridge" n.bridgeConfig
    + n.extraConfig;

  link = l: sectionIfAny "Match" l.matchConfig + section "Link" l.linkConfig + l.extraConfig;

  files = suffix: render: entries:
    lib.mapAttrs' (name: entry: lib.nameValuePair "${name}.${suffix}" (render entry)) (lib.filterAttrs (_: entry: entry.enable) entries);
  netdevFiles = files "netdev" netdev cfg.netdevs;
  networkFiles = files "network" network cfg.networks;
  stored = lib.mapAttrsToList pkgs.writeText;
in
{
  config = lib.mkMerge [
    {
      system.build.networkd = { };
      systemd.network.units = builtins.mapAttrs (_: text: { inherit text; enable = true; }) config.system.build.networkd;
    }
    {
      # tasks/network-interfaces.nix; networkd leaves it to the kernel (IPv6PrivacyExtensions=kernel).
      boot.kernel.sysctl."net.ipv6.conf.default.use_tempaddr" =
        { disabled = "0"; enabled = "1"; default = "2"; }.${config.networking.tempAddresses};
    }
    (lib.mkIf config.networking.useNetworkd { systemd.network.enable = lib.mkDefault true; })
    (lib.mkIf cfg.enable {
      services.resolved.enable = lib.mkDefault true;
      system.build.networkd = lib.mkForce (
        netdevFiles // networkFiles // files "link" link cfg.links
      );
      environment.etc."systemd/networkd.conf" = lib.mkIf (cfg.config.networkConfig != { }) { text = section "Network" cfg.config.networkConfig; };
      users.groups.systemd-network.gid = 152;
      systemd.services.systemd-networkd = {
        wantedBy = [ "multi-user.target" ];
        restartTriggers = stored netdevFiles;
        reloadTriggers = stored networkFiles;
        notSocketActivated = true;
        stopIfChanged = false;
      };
    })
  ];
}
