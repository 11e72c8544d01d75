# Where the API server is, under which names, and how its clients know that it is the right one.
{ config, kubeLib, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.kube;
  api = cfg.api;
  str = description: default: mkOption { type = types.str; inherit default description; };
in
{
  options.kube.api = {
    port = mkOption {
      type = types.port;
      default = 6443;
      description = "TCP port of the API server.";
    };
    externalHost = str "Name of the API server outside of the cluster." "test-kube.example.com";
    tls = mkOption {
      type = types.enum [ "pinned" "insecure" ];
      default = "pinned";
      description = ''
        pinned: every client has the API server's certificate and accepts no other.
        insecure: the primary makes a certificate once, clients don't look at it, and the tunnel protects.
      '';
    };
    allowFrom = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "CIDRs that may reach the API besides the tunnel and the nodes.";
    };
    serviceIp = str "Cluster IP of the API's own Service, always the first of the range." (kubeLib.mkHostIp4 0);
    internalHost = str "Name of the API server inside the cluster." "api.${cfg.domain}";
    internalUrl = str "How nodes reach the API server." "https://${api.internalHost}:${toString api.port}";
    externalUrl = str "The API server's address outside; also the issuer of service accounts." "https://${api.externalHost}:${toString api.port}";
  };

  # After the primary's own name, which a reverse look-up must return.
  config.kube.requiredPublic = lib.optional (api.tls == "pinned") "apiserver.crt";
  config.kube.allHosts.${cfg.primaryIp} = lib.mkAfter [ api.internalHost ];
}
