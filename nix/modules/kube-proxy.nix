# kube-proxy on every node: Services become nftables rules in tables of its own.
#
# Flags: cmd/kube-proxy/app/options.go (1.34).
{
  config,
  kubeLib,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.kube;
  identity = "kube-proxy_node${toString cfg.nodeIndex}";
  machine = lib.findFirst (peer: peer.index == cfg.nodeIndex) null cfg.peers;
  nodePortAddresses =
    lib.optionals (lib.elem "tunnel" cfg.nodePorts) [
      "${cfg.hostIp6}/128"
      "${cfg.hostIp4}/32"
    ]
    ++ lib.optional (
      lib.elem "lan" cfg.nodePorts && machine != null
    ) "${machine.PeerIP}/${if lib.hasInfix ":" machine.PeerIP then "128" else "32"}";

  # kube-proxy empties the chain of an endpoint that went away, and deletes it at a later synchronization. Restarted in
  # between, 1.34 and 1.35 take the chain for complete once the endpoint is back, and never fill it: the Service is dead,
  # the API's own too (epChainSkipUpdate in pkg/proxy/nftables/proxier.go; absent from 1.36). A chain in use can't be
  # deleted alone; then the table goes, and kube-proxy writes all of it.
  dropEmptyChains = pkgs.writeShellApplication {
    name = "kube-proxy-drop-empty-chains";
    runtimeInputs = [
      pkgs.gawk
      pkgs.nftables
    ];
    text = ''
      for family in ip ip6; do
        table=$(nft list table "$family" kube-proxy 2>/dev/null) || continue
        empty=$(awk '
          $1 == "chain" { name = $2; rules = 0; next }
          $1 == "}" && name ~ /^endpoint-/ && !rules { print name }
          $1 == "}" { name = ""; next }
          { rules++ }
        ' <<<"$table")
        for chain in $empty; do
          echo "deleting $chain, which is empty"
          nft delete chain "$family" kube-proxy "$chain" 2>/dev/null && continue
          echo "it is in use: deleting table $family kube-proxy"
          nft delete table "$family" kube-proxy
          break
        done
      done
    '';
  };
in
{
  config.kube.requiredSecrets = [ "${identity}.key" ];
  config.kube.requiredPublic = [ "${identity}.crt" ];
  config.systemd.services.kube-proxy = {
    description = "Kubernetes Service proxy";
    documentation = [ "https://kubernetes.io/docs/" ];
    wantedBy = [ "multi-user.target" ];
    after = [
      "network.target"
      "agenix-install-secrets.service"
      "nftables.service"
    ]
    ++ cfg.afterActivation;
    unitConfig = kubeLib.noStartLimit;
    restartTriggers = kubeLib.secretTriggers [ "${identity}.key" ];
    path = [ pkgs.nftables ];
    serviceConfig = lib.mkMerge [
      kubeLib.hardening
      kubeLib.restart
      {
        CapabilityBoundingSet = "CAP_NET_ADMIN";
        LoadCredential = kubeLib.loadSecrets [ "${identity}.key" ];
        ExecStartPre = lib.getExe dropEmptyChains;
        ExecStart = kubeLib.commandLine "${cfg.package}/bin/kube-proxy" {
          kubeconfig = kubeLib.identityKubeconfig "${identity}.crt" (
            kubeLib.credential "kube-proxy" "${identity}.key"
          );
          hostname-override = cfg.nodeHost;
          proxy-mode = "nftables";
          detect-local-mode = "BridgeInterface";
          pod-bridge-interface = "brkube";
          nodeport-addresses = lib.concatStringsSep "," nodePortAddresses;
          healthz-bind-address = "[::1]:10256";
          metrics-bind-address =
            if cfg.monitoring then kubeLib.metricsAddress "kube-proxy" else "[::1]:10249";
          # The kernel's settings stay the machine's own, so that this service needs no right to change any.
          conntrack-max-per-core = "0";
          conntrack-tcp-timeout-established = "0s";
          conntrack-tcp-timeout-close-wait = "0s";
        };
      }
    ];
  };
}
