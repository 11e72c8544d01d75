# The scheduler, on the primary. It listens nowhere but for metrics (monitoring.nix).
# There is one of it, so it needs no lease, which would cost seconds after each restart.
{
  config,
  kubeLib,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.kube;
  secret = "kube_token_system_kube-scheduler";
  kubeconfig = "/run/kube-scheduler/kubeconfig";
  configFile = pkgs.writeText "kube-scheduler.json" (
    builtins.toJSON {
      apiVersion = "kubescheduler.config.k8s.io/v1";
      kind = "KubeSchedulerConfiguration";
      clientConnection.kubeconfig = kubeconfig;
      leaderElection.leaderElect = false;
      enableProfiling = false;
    }
  );
in
{
  config = lib.mkIf cfg.isPrimary {
    kube.requiredSecrets = [ secret ];

    systemd.services.kube-scheduler = {
      description = "Kubernetes scheduler";
      documentation = [ "https://kubernetes.io/docs/" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "kube-apiserver.service" ];
      after = [
        "agenix-install-secrets.service"
        "kube-apiserver.service"
      ];
      unitConfig = kubeLib.noStartLimit;
      restartTriggers = kubeLib.secretTriggers [ secret ];
      environment.KUBECONFIG = kubeconfig;
      serviceConfig = lib.mkMerge [
        kubeLib.hardening
        kubeLib.restart
        {
          DynamicUser = true;
          RuntimeDirectory = "kube-scheduler";
          RuntimeDirectoryMode = "0700";
          LoadCredential = kubeLib.loadSecrets [ secret ];
          TimeoutStartSec = kubeLib.awaitSeconds;
          # As the controller manager does, for a new cluster's roles.
          ExecStartPre = "${lib.getExe (kubeLib.awaitApi "kube-scheduler" "get --raw '/api/v1/pods?limit=1'")} %d/${secret}";
          ExecStart = kubeLib.commandLine "${cfg.package}/bin/kube-scheduler" (
            { config = "${configFile}"; }
            // kubeLib.metricsListener kubeconfig kubeLib.metricsPorts.kube-scheduler
          );
        }
      ];
    };
  };
}
