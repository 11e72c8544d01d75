# This node's index, subnets, addresses and name (functions of the index: lib.nix). The index is written in decimal in
# both families, hence the limit of 254 nodes.
{
  config,
  kubeLib,
  lib,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.kube;
in
{
  options.kube = {
    nodeIndex = mkOption {
      type = types.ints.positive;
      description = "Index of this node, 1 to 254; node 1 is the primary.";
    };
    prefix6 = mkOption {
      type = types.strMatching "f[cd][0-9a-f]{2}";
      default = "fd88";
      description = "First group of the cluster's IPv6 addresses.";
    };
    prefix4 = mkOption {
      type = types.strMatching "[0-9]{1,3}\\.[0-9]{1,3}";
      default = "10.88";
      description = "First two octets of the cluster's IPv4 addresses.";
    };
    prefer = mkOption {
      type = types.enum [
        "ipv4"
        "ipv6"
      ];
      default = "ipv4";
      description = "Family of the first address of nodes and pods; that of the Services, or programs that expect one address see two different families.";
    };
    domain = mkOption {
      type = types.str;
      default = "k8s.internal";
      description = "Domain of the cluster (not .local, which belongs to mDNS).";
    };

    nodeCidr6 = mkOption {
      type = types.str;
      readOnly = true;
      default = kubeLib.mkNodeCidr6 cfg.nodeIndex;
      description = "IPv6 subnet of this node's containers.";
    };
    nodeCidr4 = mkOption {
      type = types.str;
      readOnly = true;
      default = kubeLib.mkNodeCidr4 cfg.nodeIndex;
      description = "IPv4 subnet of this node's containers.";
    };
    hostIp6 = mkOption {
      type = types.str;
      readOnly = true;
      default = kubeLib.mkHostIp6 cfg.nodeIndex;
      description = "IPv6 address of this node, its containers' gateway.";
    };
    hostIp4 = mkOption {
      type = types.str;
      readOnly = true;
      default = kubeLib.mkHostIp4 cfg.nodeIndex;
      description = "IPv4 address of this node, its containers' gateway.";
    };
    hostIps = mkOption {
      type = types.listOf types.str;
      readOnly = true;
      default = kubeLib.byPreference cfg.hostIp4 cfg.hostIp6;
      description = "Both addresses of this node, that of the preferred family first.";
    };
    nodeHost = mkOption {
      type = types.str;
      readOnly = true;
      default = kubeLib.mkNodeHost cfg.nodeIndex;
      description = "Name of this node in Kubernetes.";
    };

    clusterCidr6 = mkOption {
      type = types.str;
      readOnly = true;
      default = "${cfg.prefix6}::/16";
      description = "Everything of this cluster in IPv6.";
    };
    clusterCidr4 = mkOption {
      type = types.str;
      readOnly = true;
      default = "${cfg.prefix4}.0.0/16";
      description = "Everything of this cluster in IPv4.";
    };
    services4 = mkOption {
      type = kubeLib.types.cidr;
      default = kubeLib.mkNodeCidr4 0;
      description = "IPv4 range of the Services' cluster IPs: a part of index 0, or outside of prefix4.";
    };
    services6 = mkOption {
      type = types.nullOr kubeLib.types.cidr;
      default = null;
      example = "fd88::/112";
      description = "IPv6 range of the Services' cluster IPs, a part of index 0; null: Services are IPv4 only.";
    };
    servicesCidrs = mkOption {
      type = types.listOf types.str;
      readOnly = true;
      default = lib.filter (cidr: cidr != null) (kubeLib.byPreference cfg.services4 cfg.services6);
      description = "Ranges of the Services' cluster IPs; the family of the first is that of a Service that asks for none.";
    };
  };

  config.assertions = [
    {
      assertion = cfg.nodeIndex <= 254;
      message = "kube.nodeIndex is ${toString cfg.nodeIndex}; it must be 1 to 254";
    }
  ];
}
