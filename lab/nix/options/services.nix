# The services whose NixOS modules ours build on. Names and types as in NixOS 25.11 (services/networking/ssh/sshd.nix,
# services/networking/coredns.nix, virtualisation/cri-o.nix, virtualisation/containers.nix, services/system/dbus.nix).
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  flag = default: mkOption { type = types.bool; inherit default; };
  optionalText = mkOption { type = types.nullOr types.str; default = null; };
in
{
  options = {
    services.openssh = {
      enable = flag false;
      ports = mkOption { type = types.listOf types.port; default = [ 22 ]; };
      openFirewall = flag true;
      hostKeys = mkOption {
        type = types.listOf types.attrs;
        default = [
          { type = "rsa"; bits = 4096; path = "/etc/ssh/ssh_host_rsa_key"; }
          { type = "ed25519"; path = "/etc/ssh/ssh_host_ed25519_key"; }
        ];
      };
    };
    services.userborn.enable = flag false;
    services.dbus.packages = mkOption { type = types.listOf types.path; default = [ ]; };

    services.coredns = {
      enable = flag false;
      config = mkOption { type = types.lines; default = ""; };
      package = mkOption { type = types.package; default = pkgs.coredns; };
      extraArgs = mkOption { type = types.listOf types.str; default = [ ]; };
    };

    # services/monitoring/prometheus/default.nix, exporters.nix, exporters/node.nix
    services.prometheus = {
      enable = flag false;
      listenAddress = mkOption { type = types.str; default = "0.0.0.0"; };
      checkConfig = mkOption { type = types.either types.bool (types.enum [ "syntax-only" ]); default = true; };
      globalConfig = mkOption { type = (pkgs.formats.json { }).type; default = { }; };
      scrapeConfigs = mkOption { type = types.listOf types.attrs; default = [ ]; };
      ruleFiles = mkOption { type = types.listOf types.path; default = [ ]; };
      exporters.node = {
        enable = flag false;
        listenAddress = mkOption { type = types.str; default = "0.0.0.0"; };
        port = mkOption { type = types.port; default = 9100; };
        enabledCollectors = mkOption { type = types.listOf types.str; default = [ ]; };
      };
    };

    virtualisation.containers.enable = flag false;
    virtualisation.cri-o = {
      enable = flag false;
      storageDriver = mkOption { type = types.enum [ "aufs" "btrfs" "devmapper" "overlay" "vfs" "zfs" ]; default = "overlay"; };
      logLevel = mkOption { type = types.enum [ "trace" "debug" "info" "warn" "error" "fatal" ]; default = "info"; };
      pauseImage = optionalText;
      pauseCommand = optionalText;
      runtime = optionalText;
      extraPackages = mkOption { type = types.listOf types.package; default = [ ]; };
      package = mkOption { type = types.package; default = pkgs.cri-o.override { inherit (config.virtualisation.cri-o) extraPackages; }; };
      networkDir = mkOption { type = types.nullOr types.path; default = null; };
      settings = mkOption { type = (pkgs.formats.toml { }).type; default = { }; };
    };
  };
}
