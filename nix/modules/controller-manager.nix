# The controller manager, on the primary; like the scheduler it listens for metrics at most, and holds no lease. Pods get the API
# server's certificate as the authority that they trust (kube-root-ca.crt), always the one in use.
{
  config,
  kubeLib,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.kube;
  token = "kube_token_system_kube-controller-manager";
  secrets = [
    token
    "issuer.key"
  ];
  kubeconfig = "/run/kube-controller-manager/kubeconfig";
in
{
  config = lib.mkIf cfg.isPrimary {
    kube.requiredSecrets = secrets;

    systemd.services.kube-controller-manager = {
      description = "Kubernetes controller manager";
      documentation = [ "https://kubernetes.io/docs/" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "kube-apiserver.service" ];
      after = [
        "agenix-install-secrets.service"
        "kube-apiserver.service"
      ];
      unitConfig = kubeLib.noStartLimit;
      restartTriggers = kubeLib.secretTriggers secrets;
      environment.KUBECONFIG = kubeconfig;
      serviceConfig = lib.mkMerge [
        kubeLib.hardening
        kubeLib.restart
        {
          DynamicUser = true;
          RuntimeDirectory = "kube-controller-manager";
          RuntimeDirectoryMode = "0700";
          # As a credential, because the certificate of api.tls = "insecure" is in a folder of the API server's own.
          LoadCredential = kubeLib.loadSecrets secrets ++ [ "apiserver.crt:${cfg.apiserver.trusted}" ];
          TimeoutStartSec = kubeLib.awaitSeconds;
          # In a new cluster nobody has rights before the API server has made the default roles. Without them this gives
          # up after ten seconds (WaitForAPIServer in its app package), and later it waits long between its tries.
          ExecStartPre = "${
            lib.getExe (kubeLib.awaitApi "kube-controller-manager" "get --raw '/api/v1/namespaces?limit=1'")
          } %d/${token}";
          ExecStart = kubeLib.commandLine "${cfg.package}/bin/kube-controller-manager" (
            {
              inherit kubeconfig;
              use-service-account-credentials = "true";
              root-ca-file = "%d/apiserver.crt";
              service-account-private-key-file = "%d/issuer.key";
              leader-elect = "false";
              # Its default is under /usr, where nothing can be made.
              flex-volume-plugin-dir = "/run/kube-controller-manager/flexvolume";
              profiling = "false";
              # Pods that failed or succeeded stay as objects until there are so many, also those that a shutdown ended.
              terminated-pod-gc-threshold = "100";
            }
            // kubeLib.metricsListener kubeconfig kubeLib.metricsPorts.kube-controller-manager
          );
        }
      ];
    };
  };
}
