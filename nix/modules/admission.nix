# What the API server refuses although the caller's rights allow it: pods that could take over their node, and Services
# that take addresses of others.
#
# Configuration of the plugin PodSecurity: k8s.io/pod-security-admission/admission/api/v1 (1.34); the same in 1.37.
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
  level = types.enum [
    "privileged"
    "baseline"
    "restricted"
  ];
  plugins = [
    "NodeRestriction"
  ]
  ++ lib.optional (!cfg.externalIps) "DenyServiceExternalIPs";
  # JSON is YAML, too.
  configFile = pkgs.writeText "admission.json" (
    builtins.toJSON {
      apiVersion = "apiserver.config.k8s.io/v1";
      kind = "AdmissionConfiguration";
      plugins = [
        {
          name = "PodSecurity";
          configuration = {
            apiVersion = "pod-security.admission.config.k8s.io/v1";
            kind = "PodSecurityConfiguration";
            defaults = {
              inherit (cfg.podSecurity) enforce warn;
              audit = cfg.podSecurity.warn;
            };
            exemptions.namespaces = cfg.podSecurity.exemptNamespaces;
          };
        }
      ];
    }
  );
in
{
  options.kube = {
    podSecurity = {
      enforce = mkOption {
        type = level;
        default = "baseline";
        description = "The Pod Security Standard that pods must meet in namespaces without a label of their own.";
      };
      warn = mkOption {
        type = level;
        default = cfg.podSecurity.enforce;
        defaultText = lib.literalExpression "config.kube.podSecurity.enforce";
        description = "What the API server warns of, in workloads too, and notes in the audit log.";
      };
      exemptNamespaces = mkOption {
        type = types.listOf types.str;
        default = [ "kube-system" ];
        description = "Namespaces in which every pod may run, whatever their labels.";
      };
    };
    externalIps = mkOption {
      type = types.bool;
      default = false;
      description = "Whether Services may have externalIPs.";
    };
  };

  config.kube.apiserver.flags = lib.mkIf cfg.isPrimary (
    kubeLib.defaults {
      enable-admission-plugins = lib.concatStringsSep "," plugins;
      admission-control-config-file = "${configFile}";
    }
  );
}
