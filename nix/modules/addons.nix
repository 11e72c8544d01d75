# What the cluster itself must contain (nix/addons) and what the user adds: applied on the primary, server-side, once
# the API answers. A service of its own, so that a changed add-on does not restart the API server.
#
# The user adds manifests of his own and names of the catalogue (nix/addons/catalogue). Every object of the catalogue
# has the label smallkube/addon; those of names that are not chosen any more are deleted.
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

  # A service that does one thing with root's kubeconfig, once the API answers, and again until it succeeds.
  job = name: text: after: {
    wantedBy = [ "multi-user.target" ];
    # kube-identities may restart the API server.
    after = [
      "agenix-install-secrets.service"
      "kube-apiserver.service"
      "kube-identities.service"
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
        ExecStartPre = "${lib.getExe cfg.mkkubeconfig} %d/kube_token_root";
        ExecStart = lib.getExe (
          pkgs.writeShellApplication {
            inherit name text;
            runtimeInputs = [
              pkgs.coreutils
              cfg.package
              pkgs.openssl
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
    taint=$(kubectl --request-timeout=60s label --overwrite node "$node" ${controlPlane}= ${role}=primary \
      --output=jsonpath=${lib.escapeShellArg previousTaint})
    if [ "$taint" = primary ]; then
      kubectl --request-timeout=60s taint --overwrite node "$node" ${controlPlane}=:NoSchedule
      kubectl --request-timeout=60s taint node "$node" role:NoSchedule-
    fi
    # With this request the API server reads the certificates of kubelets again (identities.nix).
    kubectl --request-timeout=20s get --raw "/api/v1/nodes/$node/proxy/healthz" &
    kubectl --request-timeout=60s label --overwrite nodes --selector='!${controlPlane}' ${role}=worker
    wait
  ''
  + cfg.marksScript;

  catalogue = map (lib.removeSuffix ".yaml") (lib.attrNames (builtins.readDir ../addons/catalogue));
  chosen = lib.filter (name: lib.elem name catalogue) cfg.userAddons;
  nodeTokens = lib.any (lib.hasPrefix "kube_token_node") (lib.attrNames cfg.secretFiles);

  # The manifest of this name, with what it leaves open.
  kubelets = kubeLib.trustText (
    map ({ index, ... }: "kubelet_node${toString index}.crt") cfg.peers
  );
  manifest =
    name:
    pkgs.writeText "${name}.yaml" (
      lib.replaceStrings
        [
          "\"@kubeletCertificates@\""
          "@kubeletCertificatesHash@"
        ]
        [
          (builtins.toJSON kubelets)
          (builtins.hashString "sha256" kubelets)
        ]
        (builtins.readFile (../addons/catalogue + "/${name}.yaml"))
    );

  # All that is not in a namespace of the add-on; namespaces last, because they wait for what stands behind an
  # aggregated API.
  kinds = "apiservices,clusterroles,clusterrolebindings,rolebindings,storageclasses,namespaces";
  prune = ''
    kubectl --request-timeout=60s delete ${kinds} --all-namespaces --ignore-not-found --wait=false \
      --selector='smallkube/addon,smallkube/addon notin (${
        lib.concatStringsSep "," (
          [ "none" ]
          ++ lib.optional nodeTokens "node-tokens"
          ++ lib.optional cfg.monitoring "monitoring"
          ++ chosen
        )
      })'
  '';

  # The rules of kube-network-policies outlive it, and would drop what waits for its verdict: without it, they are to let
  # everything pass. A node that does not answer keeps them as they are until it restarts.
  liftPolicies = ''
    policies() { kubectl --request-timeout=60s --namespace=network-policy "$@"; }
    controller=$(policies get daemonsets --selector=smallkube/addon=network-policy --output=name)
    if [ -n "$controller" ]; then
      policies set env "$controller" FAIL_OPEN=true
      policies rollout status "$controller" --timeout=60s || true
    fi
  '';

  # The API server verifies metrics-server by a certificate that is made once; only the Secret has the key.
  serveMetrics = ''
    metrics() { kubectl --request-timeout=60s --namespace=metrics-server "$@"; }
    serving() { metrics get secret serving --ignore-not-found --output='jsonpath={.data.tls\.crt}'; }
    if [ -z "$(serving)" ]; then
      openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -sha256 \
        -subj /CN=metrics-server -addext subjectAltName=DNS:metrics-server.metrics-server.svc \
        -addext extendedKeyUsage=serverAuth -addext basicConstraints=critical,CA:FALSE \
        -keyout "$HOME/tls.key" -out "$HOME/tls.crt"
      metrics create secret tls serving --key="$HOME/tls.key" --cert="$HOME/tls.crt"
      rm "$HOME/tls.key"
    fi
    bundle=$(serving)
    metrics patch apiservice v1beta1.metrics.k8s.io --type=merge --patch="{\"spec\":{\"caBundle\":\"$bundle\"}}"
  '';
in
{
  options.kube = {
    addons = mkOption {
      type = types.listOf types.path;
      default = [ ];
      description = "Kubernetes manifests that the primary applies, in this order.";
    };
    userAddons = mkOption {
      type = types.listOf (types.either types.path (types.enum catalogue));
      default = [ ];
      description = "The manifests of the inventory and names of the catalogue; they come after ours.";
    };
    activationScript = mkOption {
      type = types.lines;
      description = "Shell script (bash, errexit) that runs on the primary with root's kubeconfig once the API answers; run again until it succeeds.";
    };
  };

  config = {
    kube.addons = lib.mkIf cfg.isPrimary (
      # First: what these take from the tokens, it gives.
      lib.optional nodeTokens ../addons/node-tokens.yaml
      ++ [
        ../addons/coredns.yaml
        ../addons/kube-proxy.yaml
      ]
      ++ lib.optional (cfg.kubeletAuth == "webhook") ../addons/kubelet-api-admin.yaml
      ++ lib.optional cfg.monitoring ../addons/monitoring.yaml
      ++ map (addon: if lib.elem addon chosen then manifest addon else addon) cfg.userAddons
    );
    kube.activationScript =
      lib.optionalString (!lib.elem "network-policy" chosen) liftPolicies
      + prune
      + ''
        # An object whose kind is defined in the same file is refused until the definition is established. The API server
        # refuses unknown fields itself; for a check of its own kubectl would first download megabytes.
        apply() {
          local command=(kubectl --request-timeout=60s apply --server-side --force-conflicts --validate=false -f "$1")
          "''${command[@]}" && return
          kubectl wait --for=condition=Established --timeout=30s customresourcedefinitions --all || true
          "''${command[@]}"
        }
      ''
      + lib.concatMapStrings (addon: ''
        apply ${addon}
      '') cfg.addons
      + lib.optionalString (lib.elem "metrics-server" chosen) serveMetrics;

    assertions = [
      {
        assertion = cfg.isPrimary || cfg.addons == [ ];
        message = "kube.addons is set on a worker; add-ons are applied by the primary only";
      }
    ];

    systemd.services = lib.mkIf cfg.isPrimary {
      kube-activation = {
        description = "Apply the cluster's add-ons";
        # So that one request to start this starts them before it: of several units that a switch names, systemd knows
        # the order only of those that it has been asked for already.
        wants = [
          "kube-apiserver.service"
          "kube-identities.service"
        ];
      }
      // job "kube-activation" cfg.activationScript [ ];
      kube-node-roles = lib.mkMerge [
        (job "kube-node-roles" setRoles [ "kubelet.service" ])
        {
          # Wants no other service: its timer would start an API server that was stopped.
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
      timerConfig.AccuracySec = "1s";
    };
  };
}
