# CoreDNS on every node, for the node's own pods and, by delegation from systemd-resolved, for the node itself.
#
# Node names come from the hosts file, Services from the API. What the kubernetes plugin does not know in the cluster's
# zones does not exist: passed on, it would come back from resolved endlessly. They are answered from memory, so that to
# cache them would save nothing, and keep the answer that a new Service does not exist for 30 seconds more.
{
  config,
  kubeLib,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.kube;
  identity = "coredns_node${toString cfg.nodeIndex}";
  kubeconfig = kubeLib.identityKubeconfig "${identity}.crt" (
    kubeLib.credential "coredns" "${identity}.key"
  );
  delegate = "systemd/dns-delegate.d/kubernetes.dns-delegate";

  # NixOS has the machine's own names in /etc/hosts as 127.0.0.2 (nixos/modules/config/networking.nix), which resolved
  # answers and which in a pod is the pod itself. They become the node's name.
  inherit (config.networking) hostName domain;
  ownNames = lib.filter (name: name != cfg.nodeHost) (
    map lib.toLower (
      lib.optionals (hostName != "") (
        [ hostName ] ++ lib.optional (domain != null) "${hostName}.${domain}"
      )
    )
  );
  rewrites = lib.concatMapStrings (name: "rewrite stop name exact ${name} ${cfg.nodeHost}\n  ") ownNames;

  # Names of kube.podHosts are zones of their own, so that other names beside them stay the world's.
  zones = lib.unique ([ cfg.domain ] ++ lib.concatLists (lib.attrValues cfg.podHosts));

  # resolved refuses addresses of what has one label only (resolved.conf(5): ResolveUnicastSingleLabel=), which makes a
  # pod try again instead of going on (systemd issue 34101), or asks us, because of the domain that we have. `local`
  # answers for localhost before.
  noSingleLabel = type: ''
    template IN ${type} . {
        match ^[^.]+\.$
        rcode NXDOMAIN
        fallthrough
      }'';
in
{
  config = {
    kube.requiredSecrets = [ "${identity}.key" ];
    kube.requiredPublic = [ "${identity}.crt" ];
    services.coredns = {
      enable = true;
      config = ''
        . {
          bind ${cfg.hostIp4} ${cfg.hostIp6}
          errors
          ${lib.optionalString cfg.monitoring "prometheus ${kubeLib.metricsAddress "coredns"}\n  "}${rewrites}local
          ${noSingleLabel "A"}
          ${noSingleLabel "AAAA"}
          hosts ${cfg.podHostsFile} ${lib.concatStringsSep " " zones} {
            reload 0
            fallthrough
          }
          kubernetes ${cfg.domain} ${cfg.clusterCidr6} ${toString ([ cfg.clusterCidr4 ] ++ kubeLib.servicesElsewhere)} {
            kubeconfig ${kubeconfig}
            ttl 30
          }
          forward . 127.0.0.53 {
            max_concurrent 1000
          }
          cache 30 {
            disable success ${cfg.domain}
            disable denial ${cfg.domain}
          }
          loadbalance
        }
      '';
    };

    systemd.services.coredns = {
      after = [ "agenix-install-secrets.service" ] ++ cfg.afterActivation;
      unitConfig = kubeLib.noStartLimit;
      restartTriggers = kubeLib.secretTriggers [ "${identity}.key" ];
      # Beside what NixOS sets: its user, and the one capability it needs, to bind port 53.
      serviceConfig = lib.mkMerge [
        kubeLib.hardening
        {
          LoadCredential = kubeLib.loadSecrets [ "${identity}.key" ];
          Restart = kubeLib.mkOverNixos "always";
          # Its address may not be there yet.
          RestartSec = lib.mkDefault 5;
        }
      ];
    };

    services.resolved.enable = true;
    environment.etc.${delegate}.text = ''
      [Delegate]
      Domains=${cfg.domain}
      DNS=${cfg.hostIp6}
      DefaultRoute=no
    '';
    # Read at start only (systemd.dns-delegate(5), systemd 258).
    systemd.services.systemd-resolved.restartTriggers = [ config.environment.etc.${delegate}.source ];

    environment.systemPackages = [ pkgs.dig ];
  };
}
