# Settings common to every node: what NixOS itself must switch on, the kernel settings that bridged pods need,
# and the assertions about the cluster as a whole.
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
in
{
  options.kube = {
    clusterName = mkOption {
      type = types.str;
      description = "Name of the cluster, as it stands in kubeconfigs.";
    };
    kubernetesMinor = mkOption {
      type = types.strMatching "1\\.[0-9]{2}";
      example = "1.34";
      description = "Minor version of Kubernetes that the package must have: minors are upgraded one at a time.";
    };
  };

  config = {
    networking.useNetworkd = true;
    networking.nftables.enable = true;
    networking.firewall.enable = true;
    networking.firewall.filterForward = true;

    # agenix decrypts with the machine's SSH host key, which sshd makes.
    services.openssh.enable = true;

    # Without these a pod that reaches a pod of its own node through a cluster IP gets no answer: the reply takes the
    # bridge directly, past the translation that must undo the Service's address.
    boot.kernelModules = [ "br_netfilter" ];
    boot.kernel.sysctl = {
      "net.bridge.bridge-nf-call-iptables" = kubeLib.mkSysctl 1;
      "net.bridge.bridge-nf-call-ip6tables" = kubeLib.mkSysctl 1;
    };

    assertions = [
      {
        assertion = lib.hasPrefix "${cfg.kubernetesMinor}." pkgs.kubernetes.version;
        message = "kube: the inventory demands Kubernetes ${cfg.kubernetesMinor}, but the package is ${pkgs.kubernetes.version}; set cluster.nixos to a release that has it, then inv nix.render --update-lock (minors one at a time)";
      }
    ];
  };
}
