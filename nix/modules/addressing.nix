# This node's index, subnets, addresses and name (functions of the index: lib.nix). The index is written in decimal in
# both families, hence the limit of 254 nodes.
{ config, kubeLib, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.kube;
  str = description: default: mkOption { type = types.str; inherit default description; };
in
{
  options.kube = {
    nodeIndex = mkOption {
      type = types.ints.positive;
      description = "Index of this node, 1 to 254; node 1 is the primary.";
    };
    prefix6 = str "First group of the cluster's IPv6 addresses." "fd88";
    prefix4 = str "First two octets of the cluster's IPv4 addresses." "10.88";
    domain = str "Domain of the cluster (not .local, which belongs to mDNS)." "k8s.internal";

    nodeCidr6 = str "IPv6 subnet of this node's containers." (kubeLib.mkNodeCidr6 cfg.nodeIndex);
    nodeCidr4 = str "IPv4 subnet of this node's containers." (kubeLib.mkNodeCidr4 cfg.nodeIndex);
    hostIp6 = str "IPv6 address of this node." (kubeLib.mkHostIp6 cfg.nodeIndex);
    hostIp4 = str "IPv4 address of this node." (kubeLib.mkHostIp4 cfg.nodeIndex);
    nodeHost = str "Name of this node in Kubernetes." (kubeLib.mkNodeHost cfg.nodeIndex);

    clusterCidr6 = str "Everything of this cluster in IPv6." "${cfg.prefix6}::/16";
    clusterCidr4 = str "Everything of this cluster in IPv4." "${cfg.prefix4}.0.0/16";
    servicesCidr = str "Range of the Services' cluster IPs (IPv4, because many applications want it)." (kubeLib.mkNodeCidr4 0);
  };

  config.assertions = [
    {
      assertion = cfg.nodeIndex <= 254;
      message = "kube.nodeIndex is ${toString cfg.nodeIndex}; it must be 1 to 254";
    }
  ];
}
