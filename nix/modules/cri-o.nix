# CRI-O, which runs the containers, and CNI, which connects each pod to brkube with one address of each family, that
# of the preferred one first.
{
  config,
  kubeLib,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.kube;
  network = {
    cniVersion = "1.0.0";
    name = "brkube";
    plugins = [
      {
        type = "bridge";
        bridge = "brkube";
        isGateway = true;
        # A pod reaches itself through its own Service.
        hairpinMode = true;
        mtu = cfg.mtu;
        ipam = {
          type = "host-local";
          ranges = map (subnet: [ { inherit subnet; } ]) (
            kubeLib.byPreference cfg.nodeCidr4 cfg.nodeCidr6
          );
          routes = [
            { dst = "::/0"; }
            { dst = "0.0.0.0/0"; }
          ];
        };
      }
    ];
  };
in
{
  config = {
    virtualisation.cri-o = {
      enable = true;
      settings.crio.runtime.log_to_journald = lib.mkDefault true;
      settings.crio.metrics = lib.mkIf cfg.monitoring {
        enable_metrics = true;
        metrics_host = lib.head cfg.hostIps;
        metrics_port = kubeLib.metricsPorts.crio;
      };
      package = lib.mkIf (cfg.crioPackage != null) cfg.crioPackage;
    };
    # NixOS puts CRI-O's example here (nixos/modules/virtualisation/cri-o.nix).
    environment.etc."cni/net.d/10-crio-bridge.conflist".source = lib.mkForce (
      pkgs.writeText "10-crio-bridge.conflist" (builtins.toJSON network)
    );

    systemd.services.crio = {
      path = [ pkgs.nftables ];
      unitConfig = kubeLib.noStartLimit;
      serviceConfig = {
        Restart = kubeLib.mkOverNixos "always";
        RestartSec = lib.mkDefault 5;
      };
    };
  };
}
