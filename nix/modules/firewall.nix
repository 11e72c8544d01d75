# Who may reach this node, what is forwarded between pods and tunnel, and how pods reach the rest of the world.
#
# All rules stand in this one file, in the order in which they must be read: the kubelet's port is closed before the
# rules that let pods in through a Service, because a user who may write Services could otherwise point one at it.
# kube-proxy's tables live beside ours, so the rule set as a whole is never flushed. What comes of all this together is
# measured, and stands as a table in docs/security.md.
{
  config,
  kubeLib,
  lib,
  ...
}:
let
  inherit (lib) mkOption types optionalString;
  cfg = config.kube;

  inherit (kubeLib) isV6;
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
  # A NodePort on the machine's own address is translated from any interface.
  serviceInterfaces = optionalString (!lib.elem "lan" cfg.nodePorts) ''iifname { "brkube", "wgkube" } '';

  otherHosts = mkHostIp: set (map (peer: mkHostIp peer.index) kubeLib.otherPeers);
  # A DSCP that RFC 2474, section 6, leaves to local use (pool 2: xxxx11).
  translated = "43";

  kubeletRules = ''
    iifname "wgkube" ip6 saddr ${kubeLib.mkHostIp6 1} tcp dport 10250 accept comment "kubelet: API server"
    iifname "wgkube" ip saddr ${kubeLib.mkHostIp4 1} tcp dport 10250 accept comment "kubelet: API server"
    tcp dport 10250 reject comment "kubelet: nobody else"
  '';
  # Also not through a Service, of this node or, which the DSCP tells, of another.
  metricsOnTunnel = map (name: kubeLib.metricsPorts.${name}) kubeLib.withMetrics;
  metricsPorts = set (map toString metricsOnTunnel);
  metricsRules = optionalString cfg.monitoring ''
    iifname "wgkube" ip6 saddr ${kubeLib.mkHostIp6 1} ip6 dscp != ${translated} tcp dport ${metricsPorts} accept comment "metrics: primary"
    iifname "wgkube" ip saddr ${kubeLib.mkHostIp4 1} ip dscp != ${translated} tcp dport ${metricsPorts} accept comment "metrics: primary"
    tcp dport ${metricsPorts} reject comment "metrics: nobody else"
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
    nodePorts = mkOption {
      type = types.listOf (
        types.enum [
          "tunnel"
          "lan"
        ]
      );
      default = [ "tunnel" ];
      description = ''
        Where NodePorts answer. tunnel: on the cluster addresses of the nodes, for nodes and pods.
        lan: on the address in peers.json, for everyone who reaches it.
      '';
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

    assertions = [
      {
        assertion = !lib.elem 10250 cfg.openToPods;
        message = "network.open_to_pods contains 10250: the kubelet's port stays closed to pods; remove it";
      }
      {
        assertion = !cfg.monitoring || lib.intersectLists metricsOnTunnel cfg.openToPods == [ ];
        message = "network.open_to_pods contains a port of monitoring (${
          lib.concatMapStringsSep ", " toString metricsOnTunnel
        }), which stays closed to pods; remove it";
      }
      {
        assertion = cfg.nodePorts != [ ];
        message = "kube.nodePorts is empty, which kube-proxy would take for every address of the machine";
      }
    ];

    networking.firewall.extraInputRules = lib.mkBefore (
      from tunnelSources ''udp dport ${toString cfg.wgPort} accept comment "WireGuard: peers"''
      + kubeletRules
      + metricsRules
      + apiRules
      + ''
        iifname "brkube" ip6 saddr ${cfg.nodeCidr6} meta l4proto { tcp, udp } th dport 53 accept comment "DNS: own pods"
        iifname "brkube" ip saddr ${cfg.nodeCidr4} meta l4proto { tcp, udp } th dport 53 accept comment "DNS: own pods"
        ${serviceInterfaces}ct status dnat accept comment "Services"
        iifname "wgkube" ip6 daddr ${cfg.hostIp6} ip6 dscp ${translated} accept comment "Services of other nodes"
        iifname "wgkube" ip daddr ${cfg.hostIp4} ip dscp ${translated} accept comment "Services of other nodes"
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
        kube-guard = {
          family = "inet";
          content = ''
            # kube-proxy translates a Service's address whatever interface the packet comes from, and what is
            # translated is accepted: without this a neighbour that routes the cluster's prefixes to a node would reach
            # every Service, the API included. Before conntrack, hence before any translation. A packet between pods
            # of this node has brkube as its interface too (net/bridge/br_netfilter_hooks.c: setup_pre_routing).
            chain prerouting {
              type filter hook prerouting priority raw; policy accept;
              iifname { "lo", "brkube", "wgkube" } accept
              ip6 daddr ${cfg.clusterCidr6} drop
              ip daddr ${set ([ cfg.clusterCidr4 ] ++ kubeLib.servicesElsewhere)} drop
            }
            # Link-local addresses beyond the bridge: a cloud's metadata service gives out the machine's credentials.
            # A chain of its own, because "ct status dnat accept" stands first in that of NixOS.
            chain forward {
              type filter hook forward priority filter; policy accept;
              iifname "brkube" oifname != "brkube" ip6 daddr fe80::/10 drop
              iifname "brkube" oifname != "brkube" ip daddr 169.254.0.0/16 drop
            }
          ''
          + optionalString (kubeLib.otherPeers != [ ]) ''
            # A Service whose endpoint is the host of another node (a hostNetwork pod) is translated here and must be
            # let in there, where nothing tells it from a pod that calls any port; so a DSCP does. Only the kernel of
            # the sending node sets it: what a pod or a program has set is cleared.
            chain postrouting {
              type filter hook postrouting priority mangle; policy accept;
              oifname != "wgkube" accept
              ip6 daddr ${otherHosts kubeLib.mkHostIp6} ip6 dscp ${translated} ip6 dscp set 0
              ip6 daddr ${otherHosts kubeLib.mkHostIp6} ct status dnat ip6 dscp set ${translated}
              ip daddr ${otherHosts kubeLib.mkHostIp4} ip dscp ${translated} ip dscp set 0
              ip daddr ${otherHosts kubeLib.mkHostIp4} ct status dnat ip dscp set ${translated}
            }
          '';
        };
        kube-nat6 = masquerade "ip6" "ip6" cfg.clusterCidr6;
        kube-nat4 = masquerade "ip" "ip" cfg.clusterCidr4;
      };
  };
}
