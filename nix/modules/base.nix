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
  loader = config.boot.loader;
  bootEntries = lib.mkDefault 20;
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
    package = mkOption {
      type = types.package;
      default = pkgs.kubernetes;
      defaultText = lib.literalExpression "pkgs.kubernetes";
      description = "Kubernetes: API server, scheduler, controller manager, kubelet, kube-proxy and kubectl.";
    };
    etcdPackage = mkOption {
      type = types.package;
      default = pkgs.etcd;
      defaultText = lib.literalExpression "pkgs.etcd";
      description = "etcd, with etcdctl and etcdutl.";
    };
    crioPackage = mkOption {
      type = types.nullOr types.package;
      default = null;
      description = "CRI-O; null: that of virtualisation.cri-o, which is pkgs.cri-o with its extraPackages.";
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

    # Each entry may keep a kernel and an initrd on the boot partition, which must not be full when a deploy commits. NixOS
    # has no limit for systemd-boot, and 100 for GRUB. `inv nodes.gc` keeps fewer generations.
    boot.loader.systemd-boot.configurationLimit = lib.mkIf loader.systemd-boot.enable bootEntries;
    boot.loader.grub.configurationLimit = lib.mkIf loader.grub.enable bootEntries;

    assertions = [
      {
        assertion = lib.hasPrefix "${cfg.kubernetesMinor}." cfg.package.version;
        message = "kube: the inventory demands Kubernetes ${cfg.kubernetesMinor}, but the package is ${cfg.package.version}; name a revision of nixpkgs that has ${cfg.kubernetesMinor} in cluster.kubernetes_nixpkgs, then inv nix.render --update-lock";
      }
    ];
  };
}
