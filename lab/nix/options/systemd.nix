# systemd.*: units, networkd, tmpfiles. Names and types as in NixOS 25.11 (nixos/lib/systemd-unit-options.nix,
# nixos/modules/system/boot/systemd.nix, networkd.nix, systemd/tmpfiles.nix).
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types mkIf mkMerge;
  unit = import ../unit-types.nix { inherit lib; };
  strings = mkOption { type = types.listOf types.str; default = [ ]; };
  section = mkOption { type = types.attrsOf unit.optionType; default = { }; };
  sections = mkOption { type = types.listOf (types.attrsOf unit.optionType); default = [ ]; };
  on = mkOption { type = types.bool; default = true; };
  text = mkOption { type = types.lines; default = ""; };
  files = options: mkOption {
    default = { };
    type = types.attrsOf (types.submodule { options = { enable = on; extraConfig = text; matchConfig = section; } // options; });
  };
  units = modules: mkOption { default = { }; type = types.attrsOf (types.submodule (modules ++ [ unit.common ])); };
  kind = key: [{ options.${key} = section; }];
  results = mkOption { type = types.attrsOf (types.attrsOf types.unspecified); default = { }; internal = true; };
in
{
  options.systemd = {
    services = units [ unit.service (import ../unit-service.nix { inherit pkgs; nixos = config; }) ];
    targets = units [ ];
    # What the options above and below come to, as in NixOS: of units, and of the files of networkd.
    units = results;
    timers = units (kind "timerConfig");
    paths = units (kind "pathConfig");
    slices = units (kind "sliceConfig");
    sockets = units [{
      options = { socketConfig = section; listenStreams = strings; listenDatagrams = strings; };
    }];
    mounts = mkOption {
      default = [ ];
      type = types.listOf (types.submodule [
        unit.common
        ({ config, ... }: {
          options = {
            what = mkOption { type = types.str; };
            where = mkOption { type = types.str; };
            type = mkOption { type = types.str; default = ""; };
            options = mkOption { type = types.str; default = ""; };
            mountConfig = section;
          };
          config.mountConfig = {
            What = config.what;
            Where = config.where;
          } // lib.optionalAttrs (config.type != "") { Type = config.type; }
          // lib.optionalAttrs (config.options != "") { Options = config.options; };
        })
      ]);
    };
    globalEnvironment = mkOption { type = types.attrsOf (types.nullOr (types.oneOf [ types.str types.path types.package ])); default = { }; };
    enableStrictShellChecks = mkOption { type = types.bool; default = false; };
    package = mkOption { type = types.package; default = pkgs.systemd; };
    sysusers.enable = mkOption { type = types.bool; default = false; };
    tmpfiles = {
      rules = strings;
      settings = mkOption {
        default = { };
        type = types.attrsOf (types.attrsOf (types.attrsOf (types.submodule ({ name, ... }: {
          options = {
            type = mkOption { type = types.str; default = name; };
            argument = mkOption { type = types.str; default = ""; };
          } // lib.genAttrs [ "mode" "user" "group" "age" ] (_: mkOption { type = types.str; default = "-"; });
        }))));
      };
    };
    network = {
      units = results;
      enable = mkOption { type = types.bool; default = false; };
      config.networkConfig = section;
      links = files { linkConfig = section; };
      netdevs = files {
        netdevConfig = mkOption { type = types.attrsOf unit.optionType; };
        bridgeConfig = section;
        vlanConfig = section;
        vxlanConfig = section;
        bondConfig = section;
        tunConfig = section;
        wireguardConfig = section;
        wireguardPeers = sections;
      };
      networks = mkOption {
        default = { };
        type = types.attrsOf (types.submodule ({ config, ... }: {
          options = {
            enable = on;
            extraConfig = text;
            matchConfig = section;
            linkConfig = section;
            networkConfig = section;
            bridgeConfig = section;
            dhcpV4Config = section;
            dhcpV6Config = section;
            ipv6AcceptRAConfig = section;
            addresses = sections;
            routes = sections;
            routingPolicyRules = sections;
            name = mkOption { type = types.nullOr types.str; default = null; };
            DHCP = mkOption { type = types.nullOr types.str; default = null; };
            domains = mkOption { type = types.nullOr (types.listOf types.str); default = null; };
          } // lib.genAttrs [ "address" "gateway" "dns" "ntp" "bridge" "bond" "vlan" "vxlan" "macvlan" "tunnel" ] (_: strings);
          config = mkMerge [
            (mkIf (config.name != null) { matchConfig.Name = config.name; })
            (mkIf (config.DHCP != null) { networkConfig.DHCP = config.DHCP; })
            (mkIf (config.domains != null) { networkConfig.Domains = lib.concatStringsSep " " config.domains; })
          ];
        }));
      };
      wait-online = {
        enable = mkOption { type = types.bool; default = config.systemd.network.enable; };
        anyInterface = mkOption { type = types.bool; default = config.networking.useDHCP; };
        ignoredInterfaces = strings;
        extraArgs = strings;
        timeout = mkOption { type = types.ints.unsigned; default = 120; };
      };
    };
  };
}
