# Kubeconfigs with a token: the tool that writes one, and root's on the primary, which is kept ready. The token stands in
# it inline and reaches the tool as a file: an argument could be read by every local user while the tool runs. What
# identifies itself by a certificate has a kubeconfig without a secret (kubeLib.identityKubeconfig).
#
# Root's is written by a service, not an activation script: so it comes after agenix no matter whether that runs at
# activation or, with sysusers or userborn, as agenix-install-secrets.service.
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

  # Everything but the token and the certificate.
  template = kubeLib.kubeconfig { } { };
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

  # A kubeconfig that the administrator has put below /root is left alone.
  kubeconfigRoot = pkgs.writeShellApplication {
    name = "kubeconfig-root";
    runtimeInputs = [
      pkgs.coreutils
      mkkubeconfig
    ];
    text = ''
      mkkubeconfig ${kubeLib.secretPath "kube_token_root"}
      mkdir -p /root/.kube
      if [ -L /root/.kube/config ] || [ ! -e /root/.kube/config ]; then
        ln -sfT /run/kubeconfig-root /root/.kube/config
      fi
    '';
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
    afterActivation = mkOption {
      type = types.listOf types.str;
      internal = true;
      readOnly = true;
      default = lib.optional cfg.isPrimary "kube-activation.service";
      description = "What services of the node that talk to the API are ordered after.";
    };
  };

  config = lib.mkMerge [
    { environment.systemPackages = [ mkkubeconfig ]; }
    (lib.mkIf cfg.isPrimary {
      kube.requiredSecrets = [ "kube_token_root" ];
      environment.systemPackages = [ cfg.package ];
      systemd.services.generate-kubeconfig-root = {
        description = "Kubeconfig of root";
        wantedBy = [ "multi-user.target" ];
        after = [ "agenix-install-secrets.service" ];
        unitConfig = kubeLib.noStartLimit;
        restartTriggers = kubeLib.secretTriggers [ "kube_token_root" ];
        environment.KUBECONFIG = "/run/kubeconfig-root";
        serviceConfig = lib.mkMerge [
          kubeLib.hardening
          kubeLib.retry
          {
            Type = "oneshot";
            RemainAfterExit = true;
            PrivateNetwork = lib.mkDefault true;
            ProtectHome = false;
            ReadWritePaths = [
              "/run"
              "/root"
            ];
            ExecStart = lib.getExe kubeconfigRoot;
          }
        ];
      };
    })
  ];
}
