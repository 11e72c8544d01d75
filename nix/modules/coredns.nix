# CoreDNS on every node, for the node's own pods and, by delegation from systemd-resolved, for the node itself.
#
# Node names come from the hosts file, Services from the API. What the kubernetes plugin does not know in the cluster's
# zones does not exist: passed on, it would come back from resolved endlessly.
{
  config,
  kubeLib,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.kube;
  delegate = "systemd/dns-delegate.d/kubernetes.dns-delegate";
in
{
  config = {
    services.coredns = {
      enable = true;
      config = ''
        . {
          bind ${cfg.hostIp6}
          errors
          hosts ${cfg.hostsFile} ${cfg.domain} {
            reload 0
            fallthrough
          }
          kubernetes ${cfg.domain} ${cfg.clusterCidr6} ${cfg.clusterCidr4} {
            kubeconfig {$CREDENTIALS_DIRECTORY}/kubeconfig
            ttl 30
          }
          forward . 127.0.0.53 {
            max_concurrent 1000
          }
          cache 30
          loadbalance
        }
      '';
    };

    systemd.services.coredns = {
      wants = [ "generate-kubeconfig-node.service" ];
      after = cfg.afterKubeconfig;
      unitConfig = kubeLib.noStartLimit;
      restartTriggers = cfg.nodeTriggers;
      # Beside what NixOS sets: its user, and the one capability it needs, to bind port 53.
      serviceConfig = lib.mkMerge [
        kubeLib.hardening
        {
          LoadCredential = [ "kubeconfig:${cfg.kubeconfigNode}" ];
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
    '';
    # Read at start only (systemd.dns-delegate(5), systemd 258).
    systemd.services.systemd-resolved.restartTriggers = [ config.environment.etc.${delegate}.source ];

    environment.systemPackages = [ pkgs.dig ];
  };
}
