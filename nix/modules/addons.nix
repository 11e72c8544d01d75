# What the cluster itself must contain (nix/addons) and what the user adds: applied on the primary, server-side, once
# the API answers. A service of its own, so that a changed add-on does not restart the API server.
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
  kubeconfig = "/run/kube-activation/kubeconfig";
  kubectl = "${pkgs.kubernetes}/bin/kubectl";
  script = pkgs.writeShellApplication {
    name = "kube-activation";
    runtimeInputs = [
      pkgs.coreutils
      pkgs.kubernetes
    ];
    text = cfg.activationScript;
  };
in
{
  options.kube = {
    addons = mkOption {
      type = types.listOf types.path;
      default = [ ];
      description = "Kubernetes manifests that the primary applies, in this order.";
    };
    userAddons = mkOption {
      type = types.listOf types.path;
      default = [ ];
      description = "The manifests of the inventory; they come after ours.";
    };
    activationScript = mkOption {
      type = types.lines;
      description = "Shell script (bash, errexit) that runs on the primary with root's kubeconfig once the API answers; run again until it succeeds.";
    };
  };

  config = {
    kube.addons = lib.mkIf cfg.isPrimary (
      [
        ../addons/coredns.yaml
        ../addons/kube-proxy.yaml
      ]
      ++ lib.optional (cfg.kubeletAuth == "webhook") ../addons/kubelet-api-admin.yaml
      ++ cfg.userAddons
    );
    kube.activationScript = lib.concatMapStrings (addon: ''
      kubectl --request-timeout=60s apply --server-side --force-conflicts -f ${addon}
    '') cfg.addons;

    assertions = [
      {
        assertion = cfg.isPrimary || cfg.addons == [ ];
        message = "kube.addons is set on a worker; add-ons are applied by the primary only";
      }
    ];

    systemd.services = lib.mkIf cfg.isPrimary {
      kube-activation = {
        description = "Apply the cluster's add-ons";
        wantedBy = [ "multi-user.target" ];
        wants = [ "kube-apiserver.service" ];
        after = [
          "agenix-install-secrets.service"
          "kube-apiserver.service"
        ];
        unitConfig = kubeLib.noStartLimit;
        restartTriggers = kubeLib.secretTriggers [ "kube_token_root" ];
        environment = {
          KUBECONFIG = kubeconfig;
          HOME = "/run/kube-activation";
        };
        serviceConfig = lib.mkMerge [
          kubeLib.hardening
          kubeLib.retry
          {
            Type = "oneshot";
            RemainAfterExit = true;
            DynamicUser = true;
            RuntimeDirectory = "kube-activation";
            RuntimeDirectoryMode = "0700";
            LoadCredential = kubeLib.loadSecrets [ "kube_token_root" ];
            ExecStartPre = [
              "${lib.getExe cfg.mkkubeconfig} %d/kube_token_root"
              "${kubectl} --request-timeout=30s get --output=name namespace default"
            ];
            ExecStart = lib.getExe script;
          }
        ];
      };
    };
  };
}
