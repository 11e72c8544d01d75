# Names: which node has which role, and one hosts file for the machines themselves (networking.hostFiles) and, with what
# only pods see, for CoreDNS. The node's own name comes first for each address, because a reverse look-up returns the
# first one. The machine's hostname stays what it is.
{
  config,
  kubeLib,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.kube;
  addressesOf =
    { index, ... }:
    map (address: lib.nameValuePair address [ (kubeLib.mkNodeHost index) ]) [
      (kubeLib.mkHostIp6 index)
      (kubeLib.mkHostIp4 index)
    ];
  line = address: names: "${address} ${lib.concatStringsSep " " names}\n";
  fileOf = hosts: lib.concatStrings (lib.mapAttrsToList line hosts);
in
{
  options.kube = {
    role = mkOption {
      type = types.enum [
        "primary"
        "worker"
      ];
      readOnly = true;
      default = if cfg.nodeIndex == 1 then "primary" else "worker";
      description = "What this node does: node 1 is the primary, which runs the control plane.";
    };
    isPrimary = mkOption {
      type = types.bool;
      internal = true;
      readOnly = true;
      default = cfg.role == "primary";
      description = "Whether this node is the primary.";
    };
    primaryIp = mkOption {
      type = types.str;
      readOnly = true;
      default = kubeLib.mkHostIp6 1;
      description = "IPv6 address of the primary.";
    };
    allHosts = mkOption {
      type = types.attrsOf (types.listOf types.str);
      description = "Address to names, for every node; further names of an address follow the node's own.";
    };
    podHosts = mkOption {
      type = types.attrsOf (types.listOf types.str);
      default = { };
      example = {
        "192.0.2.7" = [ "registry.example.com" ];
      };
      description = "Address to names that pods see and the machines don't: by default that of the API server outside.";
    };
    hostsFile = mkOption {
      type = types.path;
      internal = true;
      readOnly = true;
      default = pkgs.writeText "kube-hosts" (fileOf cfg.allHosts);
      description = "kube.allHosts in the format of /etc/hosts.";
    };
    podHostsFile = mkOption {
      type = types.path;
      internal = true;
      readOnly = true;
      default = pkgs.writeText "kube-pod-hosts" (fileOf cfg.allHosts + fileOf cfg.podHosts);
      description = "The same with kube.podHosts.";
    };
  };

  config = {
    kube.allHosts = lib.mkBefore (lib.listToAttrs (lib.concatMap addressesOf cfg.peers));
    networking.hostFiles = [ cfg.hostsFile ];
  };
}
