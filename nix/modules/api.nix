# Where the API server is, under which names, and how its clients know that it is the right one.
{
  config,
  kubeLib,
  lib,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.kube;
  api = cfg.api;
in
{
  options.kube.api = {
    port = mkOption {
      type = types.port;
      default = 6443;
      description = "TCP port of the API server.";
    };
    externalHost = mkOption {
      type = types.str;
      default = "test-kube.example.com";
      description = "Name of the API server outside of the cluster.";
    };
    tls = mkOption {
      type = types.enum [
        "pinned"
        "insecure"
      ];
      default = "pinned";
      description = ''
        pinned: every client has the API server's certificate and accepts no other.
        insecure: the primary makes a certificate once, clients don't look at it, and the tunnel protects.
      '';
    };
    allowFrom = mkOption {
      type = types.listOf kubeLib.types.cidr;
      default = [ ];
      description = "CIDRs that may reach the API besides the tunnel and the nodes.";
    };
    previousIssuers = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "Former values of externalUrl, whose tokens are accepted, too.";
    };

    serviceIp = mkOption {
      type = types.str;
      readOnly = true;
      default = kubeLib.firstAddress (lib.head cfg.servicesCidrs);
      description = "Cluster IP of the API's own Service, always the first of the Services' first range.";
    };
    internalHost = mkOption {
      type = types.str;
      readOnly = true;
      default = "api.${cfg.domain}";
      description = "Name of the API server inside the cluster.";
    };
    internalUrl = mkOption {
      type = types.str;
      readOnly = true;
      default = "https://${api.internalHost}:${toString api.port}";
      description = "How nodes reach the API server.";
    };
    externalUrl = mkOption {
      type = types.str;
      readOnly = true;
      default = "https://${api.externalHost}:${toString api.port}";
      description = "The API server's address outside; also the issuer of service accounts.";
    };
  };

  config.kube = {
    requiredPublic = lib.optional (api.tls == "pinned") "apiserver.crt";
    # After the primary's own name, which a reverse look-up must return.
    allHosts.${cfg.primaryIp} = lib.mkAfter [ api.internalHost ];
    # A pod verifies the token of another by what its issuer publishes (OpenID Connect discovery), and the issuer is
    # this name: to pods it is the API server through the tunnel, whether the DNS knows it or not.
    podHosts = lib.mkDefault {
      ${cfg.primaryIp} = [ api.externalHost ];
      ${kubeLib.mkHostIp4 1} = [ api.externalHost ];
    };
  };
}
