# Table inet nixos-fw: the firewall (NixOS 25.11: services/networking/firewall-nftables.nix). Rules, their order and
# what is accepted by default are NixOS'; only what decides about packets is kept, comments are not.
{ config, lib, ... }:
let
  cfg = config.networking.firewall;
  when = lib.optionalString;
  rules = lib.concatMapStrings (rule: when (rule != "") "  ${rule}\n");
  extra = text: lib.concatMapStrings (line: when (line != "") "  ${line}\n") (lib.splitString "\n" text);
  chain = name: body: "chain ${name} {\n${body}}\n";
  quoted = lib.concatMapStringsSep ", " (name: ''"${name}"'');

  ports = single: ranges: lib.concatStringsSep ", "
    (map toString single ++ map (range: "${toString range.from}-${toString range.to}") ranges);
  open = interface: opened:
    let
      from = when (interface != "default") "iifname \"${interface}\" ";
      rule = protocol: set: when (set != "") "${from}${protocol} dport { ${set} } accept";
    in
    [
      (rule "tcp" (ports opened.allowedTCPPorts opened.allowedTCPPortRanges))
      (rule "udp" (ports opened.allowedUDPPorts opened.allowedUDPPortRanges))
    ];

  verdicts = target: "ct state vmap { invalid : drop, established : accept, related : accept, new : jump ${target}, untracked : jump ${target} }";

  rpfilter = chain "rpfilter" (rules [
    "type filter hook prerouting priority mangle + 10; policy drop;"
    "meta nfproto ipv4 udp sport . udp dport { 67 . 68, 68 . 67 } accept"
    "fib saddr . mark ${when (cfg.checkReversePath != "loose") ". iif "}oif exists accept"
    "jump rpfilter-allow"
    (when cfg.logReversePathDrops ''log level info prefix "rpfilter drop: "'')
  ]);

  input = chain "input" (rules [
    "type filter hook input priority filter; policy drop;"
    "iifname { ${quoted cfg.trustedInterfaces} } accept"
    (verdicts "input-allow")
    (when cfg.logRefusedConnections ''tcp flags syn / fin,syn,rst,ack log level info prefix "refused connection: "'')
    (when (cfg.logRefusedPackets && !cfg.logRefusedUnicastsOnly) ''pkttype broadcast log level info prefix "refused broadcast: "'')
    (when (cfg.logRefusedPackets && !cfg.logRefusedUnicastsOnly) ''pkttype multicast log level info prefix "refused multicast: "'')
    (when cfg.logRefusedPackets ''pkttype host log level info prefix "refused packet: "'')
    (when cfg.rejectPackets "meta l4proto tcp reject with tcp reset")
    (when cfg.rejectPackets "reject")
  ]);

  inputAllow = chain "input-allow" (
    rules (lib.concatLists (lib.mapAttrsToList open cfg.allInterfaces) ++ [
      "meta l4proto . th dport @temp-ports accept"
      (when cfg.allowPing "icmp type echo-request ${when (cfg.pingLimit != null) "limit rate ${cfg.pingLimit} "}accept")
      "icmpv6 type != { nd-redirect, 139 } accept"
      "ip6 daddr fe80::/64 udp dport 546 accept"
    ])
    + extra cfg.extraInputRules
  );

  forward = chain "forward" (rules [
    "type filter hook forward priority filter; policy drop;"
    (verdicts "forward-allow")
  ]) + chain "forward-allow" (
    rules [
      "icmpv6 type != { router-renumbering, 139 } accept"
      "ct status dnat accept"
    ]
    + extra cfg.extraForwardRules
  );
in
{
  config = lib.mkMerge [
    {
      networking.firewall.trustedInterfaces = [ "lo" ];
      assertions = [
        {
          assertion = !cfg.filterForward || config.networking.nftables.enable;
          message = "networking.firewall.filterForward needs networking.nftables.enable";
        }
        {
          assertion = cfg.enable -> config.networking.nftables.enable;
          message = "The lab applies the firewall only with networking.nftables.enable";
        }
      ];
    }
    (lib.mkIf (cfg.enable && config.networking.nftables.enable) {
      assertions = [
        {
          assertion = cfg.extraCommands == "" && cfg.extraStopCommands == "";
          message = "networking.firewall.extraCommands are iptables commands, which networking.nftables.enable excludes";
        }
      ];
      networking.nftables.tables.nixos-fw = {
        family = "inet";
        content =
          "set temp-ports {\n  type inet_proto . inet_service\n  flags interval\n  auto-merge\n}\n"
          + when (cfg.checkReversePath != false) rpfilter
          + chain "rpfilter-allow" (extra cfg.extraReversePathFilterRules)
          + input + inputAllow + when cfg.filterForward forward;
      };
    })
  ];
}
