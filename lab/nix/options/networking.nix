# networking.*: firewall, nftables, hosts. Names and types as in NixOS 25.11 (nixos/modules/services/networking/
# firewall.nix, firewall-nftables.nix, nftables.nix; nixos/modules/config/networking.nix).
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  flag = default: mkOption { type = types.bool; inherit default; };
  text = mkOption { type = types.lines; default = ""; };
  cfg = config.networking.firewall;
  range = types.attrsOf types.port;
  ports = {
    allowedTCPPorts = mkOption { type = types.listOf types.port; default = [ ]; apply = sorted; };
    allowedUDPPorts = mkOption { type = types.listOf types.port; default = [ ]; apply = sorted; };
    allowedTCPPortRanges = mkOption { type = types.listOf range; default = [ ]; };
    allowedUDPPortRanges = mkOption { type = types.listOf range; default = [ ]; };
  };
  sorted = values: lib.unique (builtins.sort builtins.lessThan values);
in
{
  options.networking = {
    hostName = mkOption { type = types.str; default = "nixos"; };
    domain = mkOption { type = types.nullOr types.str; default = null; };
    useNetworkd = flag false;
    useDHCP = flag true;
    enableIPv6 = flag true;
    tempAddresses = mkOption { type = types.enum [ "disabled" "enabled" "default" ]; default = "default"; };
    hosts = mkOption { type = types.attrsOf (types.listOf types.str); default = { }; };
    hostFiles = mkOption { type = types.listOf types.path; default = [ ]; };
    extraHosts = text;
    networkmanager = {
      enable = flag false;
      unmanaged = mkOption { type = types.listOf types.str; default = [ ]; };
    };

    firewall = ports // {
      enable = flag true;
      backend = mkOption {
        type = types.enum [ "iptables" "nftables" "firewalld" ];
        default = if config.networking.nftables.enable then "nftables" else "iptables";
      };
      allowPing = flag true;
      pingLimit = mkOption { type = types.nullOr (types.separatedString " "); default = null; };
      rejectPackets = flag false;
      logRefusedConnections = flag true;
      logRefusedPackets = flag false;
      logRefusedUnicastsOnly = flag true;
      logReversePathDrops = flag false;
      checkReversePath = mkOption { type = types.either types.bool (types.enum [ "strict" "loose" ]); default = true; };
      filterForward = flag false;
      trustedInterfaces = mkOption { type = types.listOf types.str; default = [ ]; };
      interfaces = mkOption { type = types.attrsOf (types.submodule { options = ports; }); default = { }; };
      allInterfaces = mkOption {
        internal = true;
        readOnly = true;
        type = types.attrsOf (types.submodule { options = ports; });
        default = { default = builtins.mapAttrs (name: _: cfg.${name}) ports; } // cfg.interfaces;
      };
      extraCommands = text;
      extraStopCommands = text;
      extraInputRules = text;
      extraForwardRules = text;
      extraReversePathFilterRules = text;
    };

    nftables = {
      enable = flag false;
      checkRuleset = flag true;
      preCheckRuleset = text;
      flushRuleset = flag false;
      extraDeletions = text;
      ruleset = text;
      rulesetFile = mkOption { type = types.nullOr types.path; default = null; };
      flattenRulesetFile = flag false;
      tables = mkOption {
        default = { };
        type = types.attrsOf (types.submodule ({ name, ... }: {
          options = {
            enable = flag true;
            name = mkOption { type = types.str; };
            content = mkOption { type = types.lines; };
            family = mkOption { type = types.enum [ "ip" "ip6" "inet" "arp" "bridge" "netdev" ]; };
          };
          config.name = lib.mkDefault name;
        }));
      };
    };
  };
}
