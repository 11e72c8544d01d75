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
  kubectl = "${pkgs.kubernetes}/bin/kubectl";

  # A service that does one thing with root's kubeconfig, once the API answers, and again until it succeeds.
  job = name: text: after: {
    wantedBy = [ "multi-user.target" ];
    wants = [ "kube-apiserver.service" ];
    after = [
      "agenix-install-secrets.service"
      "kube-apiserver.service"
    ]
    ++ after;
    unitConfig = kubeLib.noStartLimit;
    restartTriggers = kubeLib.secretTriggers [ "kube_token_root" ];
    environment = {
      KUBECONFIG = "/run/${name}/kubeconfig";
      HOME = "/run/${name}";
    };
    serviceConfig = lib.mkMerge [
      kubeLib.hardening
      kubeLib.retry
      {
        Type = "oneshot";
        RemainAfterExit = lib.mkDefault true;
        DynamicUser = true;
        RuntimeDirectory = name;
        RuntimeDirectoryMode = "0700";
        LoadCredential = kubeLib.loadSecrets [ "kube_token_root" ];
        ExecStartPre = [
          "${lib.getExe cfg.mkkubeconfig} %d/kube_token_root"
          "${kubectl} --request-timeout=30s get --output=name namespace default"
        ];
        ExecStart = lib.getExe (
          pkgs.writeShellApplication {
            inherit name text;
            runtimeInputs = [
              pkgs.coreutils
              pkgs.kubernetes
            ];
          }
        );
      }
    ];
  };

  # Labels that a kubelet may not give itself, nor take away (NodeRestriction): `kubectl get node` shows the first one, and a
  # pod that selects the second one runs on no other node. The taint is the kubelet's to set, but only when it
  # registers: a primary that did so with the previous taint gets this one instead, and one without either keeps none.
  controlPlane = "node-role.kubernetes.io/control-plane";
  role = "node-restriction.kubernetes.io/role";
  previousTaint = "{.spec.taints[?(@.key==\"role\")].value}";
  setRoles = ''
    node=${cfg.nodeHost}
    kubectl wait --for=create --timeout=60s "node/$node"
    kubectl --request-timeout=60s label --overwrite node "$node" ${controlPlane}= ${role}=primary
    if [ "$(kubectl --request-timeout=60s get node "$node" --output=jsonpath=${lib.escapeShellArg previousTaint})" = primary ]; then
      kubectl --request-timeout=60s taint --overwrite node "$node" ${controlPlane}=:NoSchedule
      kubectl --request-timeout=60s taint node "$node" role:NoSchedule-
    fi
    kubectl --request-timeout=60s label --overwrite nodes --selector='!${controlPlane}' ${role}=worker
  ''
  + cfg.marksScript;
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
    kube.activationScript = ''
      # An object whose kind is defined in the same file is refused until the definition is established.
      apply() {
        local command=(kubectl --request-timeout=60s apply --server-side --force-conflicts -f "$1")
        "''${command[@]}" && return
        kubectl wait --for=condition=Established --timeout=30s customresourcedefinitions --all || true
        "''${command[@]}"
      }
    ''
    + lib.concatMapStrings (addon: ''
      apply ${addon}
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
      }
      // job "kube-activation" cfg.activationScript [ ];
      kube-node-roles = lib.mkMerge [
        (job "kube-node-roles" setRoles [ "kubelet.service" ])
        {
          description = "Label the nodes with their roles";
          serviceConfig.RemainAfterExit = false;
          serviceConfig.StateDirectory = "kube-node-roles";
        }
      ];
    };
    # A node registers when it joins, and again after its object was deleted.
    systemd.timers.kube-node-roles = lib.mkIf cfg.isPrimary {
      wantedBy = [ "timers.target" ];
      timerConfig.OnUnitInactiveSec = "5min";
    };
  };
}
