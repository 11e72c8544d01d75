# The API server, on the primary: the only client of etcd, and what everything else talks to.
#
# Flags: https://kubernetes.io/docs/reference/command-line-tools-reference/kube-apiserver/ (1.34).
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
  webhook = cfg.kubeletAuth == "webhook";
  pinned = cfg.api.tls == "pinned";
  secrets =
    cfg.apiserver.tokenSecrets
    ++ [
      "EncryptionConfiguration.yaml"
      "issuer.key"
      "front-proxy-client.key"
    ]
    ++ otherIssuer
    ++ lib.optional pinned "apiserver.key"
    ++ lib.optional webhook "kubelet-client.key";
  # The other key of a rotation: tokens that it has signed are accepted until that has ended.
  otherIssuer = lib.filter (name: cfg.secretFiles ? ${name}) [
    "issuer.key.new"
    "issuer.key.old"
  ];
  # Whom the API server and, by the ConfigMap, aggregated API servers believe the user that they name in headers.
  proxies = "${kubeLib.trustBundle [ "front-proxy-client.crt" ]}";
  authentication = "--namespace=kube-system configmap extension-apiserver-authentication";
  issuers = lib.unique ([ cfg.api.externalUrl ] ++ cfg.api.previousIssuers);
  kubeconfig = "/run/kube-apiserver/kubeconfig";
  # In memory: no disk gets tokens in clear.
  tokens = "/run/kube-apiserver/tokens.csv";
in
{
  options.kube.apiserver.flags = mkOption {
    type = types.attrsOf (types.either types.str (types.listOf types.str));
    default = { };
    example = {
      max-requests-inflight = "200";
    };
    description = "The API server's flags without their dashes; one with a list of values is given for each. What the modules set are defaults, flag by flag; a list is replaced as a whole.";
  };

  config = lib.mkIf cfg.isPrimary {
    kube.requiredSecrets = secrets;
    kube.requiredPublic = [ "front-proxy-client.crt" ];
    kube.apiserver.flags = kubeLib.defaults (
      {
        # Of the family of the API's own Service.
        advertise-address = if kubeLib.isV6 cfg.api.serviceIp then cfg.hostIp6 else cfg.hostIp4;
        bind-address = "::";
        secure-port = toString cfg.api.port;
        external-hostname = cfg.api.externalHost;
        etcd-servers = "unix:/run/etcd/grpc";
        encryption-provider-config = "%d/EncryptionConfiguration.yaml";
        service-cluster-ip-range = lib.concatStringsSep "," cfg.servicesCidrs;
        tls-cert-file = cfg.apiserver.certificate;
        tls-private-key-file = cfg.apiserver.key;
        tls-cipher-suites = lib.concatStringsSep "," kubeLib.cipherSuites;
        anonymous-auth = "false";
        token-auth-file = tokens;
        client-ca-file = cfg.identitiesFile;
        authorization-mode = "Node,RBAC";
        # CSI drivers and other node agents are privileged pods.
        allow-privileged = "true";
        # The first one is named in new tokens; those of all are accepted.
        service-account-issuer = issuers;
        api-audiences = lib.concatStringsSep "," ([ "api" ] ++ issuers);
        service-account-signing-key-file = "%d/issuer.key";
        service-account-key-file = map (name: "%d/${name}") ([ "issuer.key" ] ++ otherIssuer);
        # A pod's token ends within the hour. Otherwise those that are mounted would be valid for a year, for the sake of
        # clients older than 2019 that do not read the file again.
        service-account-extend-token-expiration = "false";
        kubelet-certificate-authority = cfg.kubeletsFile;
        kubelet-preferred-address-types = "Hostname,InternalIP";
        # Aggregation: with this certificate the API server passes requests on to the Services of APIService objects, at
        # their cluster IP (no --enable-aggregator-routing): an endpoint that is the host of another node can be reached
        # through its Service only (firewall.nix).
        proxy-client-cert-file = kubeLib.publicFile "front-proxy-client.crt";
        proxy-client-key-file = "%d/front-proxy-client.key";
        requestheader-client-ca-file = proxies;
        # Without names every certificate of that file would do.
        requestheader-allowed-names = "front-proxy-client";
        requestheader-username-headers = "X-Remote-User";
        requestheader-group-headers = "X-Remote-Group";
        requestheader-extra-headers-prefix = "X-Remote-Extra-";
        profiling = "false";
        # Without it open watches hold up each stop for sixty seconds, in which no request is answered.
        shutdown-watch-termination-grace-period = "10s";
      }
      // lib.optionalAttrs webhook {
        kubelet-client-certificate = kubeLib.publicFile "kubelet-client.crt";
        kubelet-client-key = "%d/kubelet-client.key";
      }
    );

    # To the certificates in there the API server adds its own; it removes expired ones only. So that one that was
    # replaced is trusted no more, the ConfigMap is deleted; the API server writes it anew at once
    # (pkg/controlplane/controller/clusterauthenticationtrust).
    kube.activationScript = lib.mkAfter ''
      trusted=$(kubectl --request-timeout=60s get ${authentication} --ignore-not-found \
        --output='jsonpath={.data.requestheader-client-ca-file}')
      if [ "$trusted" != "$(<${proxies})" ]; then
        kubectl --request-timeout=60s delete ${authentication} --ignore-not-found
      fi
    '';

    users.users.kube-apiserver = {
      isSystemUser = true;
      group = "etcd";
      description = "Kubernetes API server";
    };

    systemd.services.kube-apiserver = {
      description = "Kubernetes API server";
      documentation = [ "https://kubernetes.io/docs/" ];
      wantedBy = [ "multi-user.target" ];
      wants = [
        "etcd.service"
        "kube-identities.service"
      ];
      after = [
        "network.target"
        "agenix-install-secrets.service"
        "etcd.service"
        "kube-identities.service"
      ];
      unitConfig = kubeLib.noStartLimit;
      restartTriggers = kubeLib.secretTriggers secrets;
      environment = {
        KUBECONFIG = kubeconfig;
        HOME = "/run/kube-apiserver";
      };
      serviceConfig = lib.mkMerge [
        kubeLib.hardening
        kubeLib.restart
        {
          Type = "notify";
          TimeoutStartSec = kubeLib.awaitSeconds;
          User = "kube-apiserver";
          Group = "etcd";
          StateDirectory = "kube-apiserver";
          StateDirectoryMode = "0700";
          RuntimeDirectory = "kube-apiserver";
          RuntimeDirectoryMode = "0700";
          WorkingDirectory = "/var/lib/kube-apiserver";
          LoadCredential = kubeLib.loadSecrets secrets;
          LimitNOFILE = lib.mkDefault 65536;
          ExecStartPre = [
            "${lib.getExe cfg.apiserver.writeTokens} ${tokens}"
            # What it knows until its next start (identities.nix); as root, whose file it is.
            "+${pkgs.coreutils}/bin/cp ${cfg.kubeletsFile} ${cfg.kubeletsFile}.known"
          ]
          ++ lib.optional (!pinned) (lib.getExe cfg.apiserver.makeCertificate);
          ExecStart = kubeLib.commandLine "${cfg.package}/bin/kube-apiserver" cfg.apiserver.flags;
          ExecStartPost = "${
            lib.getExe (kubeLib.awaitApi "kube-apiserver" "get --raw /api/v1/namespaces/default")
          } %d/kube_token_root";
        }
      ];
    };
  };
}
