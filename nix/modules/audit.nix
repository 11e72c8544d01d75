# The audit log of the API server: who did what, when, from where, with which result; read by inv cluster.audit.
#
# Policy: k8s.io/apiserver/pkg/apis/audit/v1 (1.34); the first rule that matches decides. No rule has a level with bodies.
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
  folder = "kube-apiserver";
  reads = [
    "get"
    "list"
    "watch"
  ];
  core = resources: {
    inherit resources;
    group = "";
  };
  rules = [
    # Every read of a Secret counts, whoever it is; of a watch, which the kubelets keep open, only the begin.
    {
      level = "Metadata";
      verbs = [ "watch" ];
      resources = [ (core [ "secrets" ]) ];
      omitStages = [ "ResponseComplete" ];
    }
    {
      level = "Metadata";
      resources = [ (core [ "secrets" ]) ];
    }
    # Signs of life, leader election and events: some per second, even in an idle cluster.
    {
      level = "None";
      resources = [
        {
          group = "coordination.k8s.io";
          resources = [ "leases" ];
        }
        {
          group = "events.k8s.io";
          resources = [ "events" ];
        }
        (core [ "events" ])
      ];
    }
    # What components of the cluster read all the time, and the state that they report.
    {
      level = "None";
      userGroups = [
        "system:nodes"
        "system:serviceaccounts:kube-system"
      ];
      verbs = reads;
    }
    {
      level = "None";
      users = [
        "system:apiserver"
        "system:kube-controller-manager"
        "system:kube-scheduler"
      ];
      verbs = reads;
    }
    {
      level = "None";
      userGroups = [ "system:nodes" ];
      verbs = [ "patch" ];
      resources = [ (core [ "nodes/status" ]) ];
    }
    # What clients ask before they ask for anything, and probes.
    {
      level = "None";
      nonResourceURLs = [
        "/api*"
        "/healthz*"
        "/livez*"
        "/metrics"
        "/openapi*"
        "/readyz*"
        "/version*"
      ];
    }
    { level = "Metadata"; }
  ];
  policyFile = pkgs.writeText "audit-policy.json" (builtins.toJSON cfg.auditPolicy);
in
{
  options.kube.auditPolicy = mkOption {
    type = (pkgs.formats.json { }).type;
    default = { };
    example = {
      rules = [ { level = "Metadata"; } ];
    };
    description = "The audit policy of the API server; rules of your own replace ours as a whole.";
  };

  config = lib.mkIf cfg.isPrimary {
    kube.auditPolicy = kubeLib.defaults {
      apiVersion = "audit.k8s.io/v1";
      kind = "Policy";
      omitStages = [ "RequestReceived" ];
      inherit rules;
    };

    kube.apiserver.flags = kubeLib.defaults {
      audit-policy-file = "${policyFile}";
      audit-log-path = "/var/log/${folder}/audit.log";
      # An event is with the kernel before its request is answered, so that a killed API server has lost none. A full
      # disk loses events, and stops no request.
      audit-log-mode = "blocking";
      # Megabytes, days, files: about 200 MB at most, because what is rotated is compressed.
      audit-log-maxsize = "100";
      audit-log-maxage = "30";
      audit-log-maxbackup = "10";
      audit-log-compress = "true";
    };

    systemd.services.kube-apiserver.serviceConfig = {
      LogsDirectory = folder;
      LogsDirectoryMode = "0700";
    };

    # For inv cluster.audit.
    environment.systemPackages = [ pkgs.jq ];
  };
}
