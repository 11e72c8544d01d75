# Kubeconfigs: the tool that writes one, and the two that are kept ready: /run/kubeconfig-node on every node (kubelet,
# kube-proxy, CoreDNS) and root's on the primary. Tokens stand in them inline and reach the tool as files: an argument
# could be read by every local user while the tool runs.
#
# Both are services, not activation scripts: so they come after agenix no matter whether it runs at activation or, with
# sysusers or userborn, as agenix-install-secrets.service.
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
  pinned = cfg.api.tls == "pinned";

  # Everything but the token and the certificate. JSON is YAML.
  template = pkgs.writeText "kubeconfig.json" (
    builtins.toJSON {
      apiVersion = "v1";
      kind = "Config";
      clusters = [
        {
          name = cfg.clusterName;
          cluster = {
            server = cfg.api.internalUrl;
          }
          // lib.optionalAttrs (!pinned) { insecure-skip-tls-verify = true; };
        }
      ];
      users = [
        {
          name = cfg.clusterName;
          user = { };
        }
      ];
      contexts = [
        {
          name = cfg.clusterName;
          context = {
            cluster = cfg.clusterName;
            user = cfg.clusterName;
          };
        }
      ];
      current-context = cfg.clusterName;
    }
  );
  filter = lib.concatStringsSep " | " (
    [ ''.users[0].user.token = ($token | split("\n")[0])'' ]
    ++ lib.optional pinned ''.clusters[0].cluster."certificate-authority-data" = ($authority | @base64)''
  );
  files =
    "--rawfile token \"$1\""
    + lib.optionalString pinned " --rawfile authority ${kubeLib.trustBundle [ "apiserver.crt" ]}";

  mkkubeconfig = pkgs.writeShellApplication {
    name = "mkkubeconfig";
    runtimeInputs = [
      pkgs.coreutils
      pkgs.jq
    ];
    text = ''
      if [ "$#" -ne 1 ] || [ -z "''${KUBECONFIG:-}" ]; then
        echo "usage: KUBECONFIG=FILE mkkubeconfig TOKENFILE" >&2
        exit 64
      fi
      if [ ! -r "$1" ]; then
        echo "mkkubeconfig: $1 can't be read" >&2
        exit 66
      fi
      token=$(<"$1")
      if [[ ! "$token" =~ ^[A-Za-z0-9+/=._~-]+$ ]]; then
        echo "mkkubeconfig: $1 does not hold one token" >&2
        exit 65
      fi
      umask 077
      new=$(mktemp "$KUBECONFIG.XXXXXX")
      trap 'rm -f "$new"' EXIT
      jq ${files} ${lib.escapeShellArg filter} ${template} >"$new"
      mv -fT "$new" "$KUBECONFIG"
    '';
  };

  # A kubeconfig that the administrator has put there is left alone.
  linkRoot = pkgs.writeShellApplication {
    name = "link-kubeconfig-root";
    runtimeInputs = [ pkgs.coreutils ];
    text = ''
      mkdir -p /root/.kube
      if [ -L /root/.kube/config ] || [ ! -e /root/.kube/config ]; then
        ln -sfT /run/kubeconfig-root /root/.kube/config
      fi
    '';
  };

  oneshot =
    {
      description,
      secret,
      kubeconfig,
      exec ? [ ],
      serviceConfig ? { },
    }:
    {
      inherit description;
      wantedBy = [ "multi-user.target" ];
      after = [ "agenix-install-secrets.service" ];
      unitConfig = kubeLib.noStartLimit;
      restartTriggers = kubeLib.secretTriggers [ secret ];
      environment.KUBECONFIG = kubeconfig;
      serviceConfig = lib.mkMerge [
        kubeLib.hardening
        kubeLib.retry
        {
          Type = "oneshot";
          RemainAfterExit = true;
          PrivateNetwork = lib.mkDefault true;
          ReadWritePaths = [ "/run" ];
          ExecStart = [ "${lib.getExe mkkubeconfig} ${kubeLib.secretPath secret}" ] ++ exec;
        }
        serviceConfig
      ];
    };
in
{
  options.kube = {
    mkkubeconfig = mkOption {
      type = types.package;
      internal = true;
      readOnly = true;
      default = mkkubeconfig;
      description = "Writes a kubeconfig with the token in a file to $KUBECONFIG, in one step and readable by its owner only.";
    };
    kubeconfigNode = mkOption {
      type = types.str;
      internal = true;
      readOnly = true;
      default = "/run/kubeconfig-node";
      description = "The node's own kubeconfig.";
    };
    nodeSecret = mkOption {
      type = types.str;
      internal = true;
      readOnly = true;
      default = "kube_token_node${toString cfg.nodeIndex}";
      description = "The secret that is the node's API token.";
    };
    nodeTriggers = mkOption {
      type = types.listOf types.str;
      internal = true;
      readOnly = true;
      default = kubeLib.secretTriggers [ cfg.nodeSecret ] ++ [ "${mkkubeconfig}" ];
      description = "restartTriggers of what uses it: the token, and all else that stands in it.";
    };
    afterKubeconfig = mkOption {
      type = types.listOf types.str;
      internal = true;
      readOnly = true;
      default = [
        "generate-kubeconfig-node.service"
      ]
      ++ lib.optional cfg.isPrimary "kube-activation.service";
      description = "What services of the node that talk to the API are ordered after.";
    };
  };

  config = {
    kube.requiredSecrets = [ cfg.nodeSecret ] ++ lib.optional cfg.isPrimary "kube_token_root";

    systemd.services = {
      generate-kubeconfig-node = oneshot {
        description = "Kubeconfig of this node";
        secret = cfg.nodeSecret;
        kubeconfig = cfg.kubeconfigNode;
      };
    }
    // lib.optionalAttrs cfg.isPrimary {
      generate-kubeconfig-root = oneshot {
        description = "Kubeconfig of root";
        secret = "kube_token_root";
        kubeconfig = "/run/kubeconfig-root";
        exec = [ (lib.getExe linkRoot) ];
        serviceConfig = {
          ProtectHome = false;
          ReadWritePaths = [ "/root" ];
        };
      };
    };

    environment.systemPackages = [ mkkubeconfig ] ++ lib.optional cfg.isPrimary pkgs.kubernetes;
  };
}
