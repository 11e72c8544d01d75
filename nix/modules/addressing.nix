# Node index to subnets, host addresses and names; the twin of smallkube/inventory/addressing.py. Index 0 is the Services'
# range. N is written in decimal in both families, hence the limit of 254 nodes.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.kube;
  str = description: default: mkOption { type = types.str; inherit default description; };
  function = description: default: mkOption {
    type = types.functionTo types.str;
    inherit default description;
  };
in
{
  options.kube = {
    nodeIndex = mkOption {
      type = types.ints.positive;
      description = "Index of this node, 1 to 254; node 1 is the primary.";
    };
    nodeIndex0 = mkOption {
      type = types.int;
      default = cfg.nodeIndex - 1;
      description = "Index of this node, counted from 0.";
    };
    prefix6 = str "First group of the cluster's IPv6 addresses." "fd88";
    prefix4 = str "First two octets of the cluster's IPv4 addresses." "10.88";
    domain = str "Domain of the cluster (not .local, which belongs to mDNS)." "k8s.internal";

    mkNodeCidr6 = function "IPv6 subnet of a node's containers." (index: "${cfg.prefix6}:${toString index}::/32");
    mkNodeCidr4 = function "IPv4 subnet of a node's containers." (index: "${cfg.prefix4}.${toString index}.0/24");
    mkHostIp6 = function "IPv6 address of a node, its containers' gateway." (index: "${cfg.prefix6}:${toString index}::1");
    mkHostIp4 = function "IPv4 address of a node, its containers' gateway." (index: "${cfg.prefix4}.${toString index}.1");
    mkNodeHost = function "Name of a node in Kubernetes." (index: "node${toString index}.${cfg.domain}");

    nodeCidr6 = str "IPv6 subnet of this node's containers." (cfg.mkNodeCidr6 cfg.nodeIndex);
    nodeCidr4 = str "IPv4 subnet of this node's containers." (cfg.mkNodeCidr4 cfg.nodeIndex);
    hostIp6 = str "IPv6 address of this node." (cfg.mkHostIp6 cfg.nodeIndex);
    hostIp4 = str "IPv4 address of this node." (cfg.mkHostIp4 cfg.nodeIndex);
    nodeHost = str "Name of this node in Kubernetes." (cfg.mkNodeHost cfg.nodeIndex);

    clusterCidr6 = str "Everything of this cluster in IPv6." "${cfg.prefix6}::/16";
    clusterCidr4 = str "Everything of this cluster in IPv4." "${cfg.prefix4}.0.0/16";
    servicesCidr = str "Range of the Services' cluster IPs (IPv4, because many applications want it)." (cfg.mkNodeCidr4 0);
  };

  config.assertions = [
    {
      assertion = cfg.nodeIndex <= 254;
      message = "kube.nodeIndex is ${toString cfg.nodeIndex}; it must be 1 to 254";
    }
  ];
}
