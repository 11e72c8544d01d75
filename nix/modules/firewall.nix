# Who may reach this node, what is forwarded between pods and tunnel, and how pods reach the rest of the world.
#
# All rules stand in this one file, in the order in which they must be read: the kubelet's port is closed before the
# rules that let pods in through a Service, because a user who may write Services could otherwise point one at it.
# kube-proxy's tables live beside ours, so the rule set as a whole is never flushed.
{
  config,
  kubeLib,
  lib,
  ...
}:
let
  inherit (lib) mkOption types optionalString;
  cfg = config.kube;

  isV6 = lib.hasInfix ":";
  set = values: "{ ${lib.concatStringsSep ", " values} }";
  # A rule for each source, because ranges that overlap can't be in one set.
  from =
    sources: rest:
    lib.concatMapStrings (
      source: "${if isV6 source then "ip6" else "ip"} saddr ${source} ${rest}\n"
    ) sources;

  peerAddresses = map (peer: peer.PeerIP) kubeLib.otherPeers;
  tunnelSources = if cfg.privateRanges == [ ] then peerAddresses else cfg.privateRanges;
  apiPort = toString cfg.api.port;
  openPorts = set (map toString cfg.openToPods);

  kubeletRules = ''
    iifname "wgkube" ip6 saddr ${kubeLib.mkHostIp6 1} tcp dport 10250 accept comment "kubelet: API server"
    iifname "wgkube" ip saddr ${kubeLib.mkHostIp4 1} tcp dport 10250 accept comment "kubelet: API server"
    tcp dport 10250 reject comment "kubelet: nobody else"
  '';
  apiRules = optionalString cfg.isPrimary (
    ''
      iifname "brkube" tcp dport ${apiPort} accept comment "API: pods of the primary"
      iifname "wgkube" ip6 saddr ${cfg.clusterCidr6} tcp dport ${apiPort} accept comment "API: cluster"
      iifname "wgkube" ip saddr ${cfg.clusterCidr4} tcp dport ${apiPort} accept comment "API: cluster"
    ''
    + from peerAddresses ''tcp dport ${apiPort} accept comment "API: nodes"''
    + from cfg.api.allowFrom ''tcp dport ${apiPort} accept comment "API: inventory"''
  );
in
{
  options.kube = {
    openToPods = mkOption {
      type = types.listOf types.port;
      default = [ ];
      description = "TCP and UDP ports of the hosts that pods may reach, of this node and of others.";
    };
    privateRanges = mkOption {
      type = types.listOf kubeLib.types.cidr;
      default = [ ];
      description = "CIDRs WireGuard packets may come from, for peers behind NAT; empty: exactly the peers' addresses.";
    };
  };

  config = {
    boot.kernel.sysctl = {
      "net.ipv4.conf.all.forwarding" = kubeLib.mkSysctl 1;
      "net.ipv6.conf.all.forwarding" = kubeLib.mkSysctl 1;
    };

    networking.nftables.flushRuleset = false;

    networking.firewall.extraInputRules = lib.mkBefore (
      from tunnelSources ''udp dport ${toString cfg.wgPort} accept comment "WireGuard: peers"''
      + kubeletRules
      + apiRules
      + ''
        iifname "brkube" ip6 saddr ${cfg.nodeCidr6} meta l4proto { tcp, udp } th dport 53 accept comment "DNS: own pods"
        iifname { "brkube", "wgkube" } ct status dnat accept comment "Services"
      ''
      + optionalString (cfg.openToPods != [ ]) ''
        iifname { "brkube", "wgkube" } meta l4proto { tcp, udp } th dport ${openPorts} accept comment "open to pods"
      ''
    );

    networking.firewall.extraForwardRules = lib.mkBefore ''
      iifname "brkube" accept comment "from own pods"
      iifname "wgkube" ip6 daddr ${cfg.nodeCidr6} accept comment "tunnel to own pods"
      iifname "wgkube" ip daddr ${cfg.nodeCidr4} accept comment "tunnel to own pods"
    '';

    networking.nftables.tables =
      let
        masquerade = family: protocol: cidr: {
          name = "kube-nat";
          inherit family;
          content = ''
            chain post {
              type nat hook postrouting priority srcnat; policy accept;
              iifname "brkube" ${protocol} daddr ${cidr} accept
              iifname "brkube" masquerade
            }
          '';
        };
      in
      {
        kube-nat6 = masquerade "ip6" "ip6" cfg.clusterCidr6;
        kube-nat4 = masquerade "ip" "ip" cfg.clusterCidr4;
      };
  };
}
