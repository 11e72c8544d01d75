# The users of the API server that it knows by a certificate of their own: the kubelet, CoreDNS and kube-proxy of every
# node, and people. Each certificate is a self-signed leaf; the API server's client CA file is the bundle of exactly
# these, so that none of them can vouch for another.
#
# The API server reads the file again when it is replaced by a rename; it does not notice that a symbolic link has
# another target (k8s.io/apiserver pkg/server/dynamiccertificates watches the file itself). So a unit writes a real
# file, and neither the unit of the API server nor its flags change with the certificates.
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
  state = "/var/lib/kube-identities";
  word = types.strMatching "[A-Za-z0-9:._@-]+";

  identity = types.submodule {
    options = {
      file = mkOption {
        type = types.path;
        description = "Its certificate.";
      };
      name = mkOption {
        type = types.strMatching "[A-Za-z0-9/._@-]+";
        description = "What the certificate is called in keys/.";
      };
      user = mkOption {
        type = word;
        description = "The user that it must name.";
      };
      groups = mkOption {
        type = types.listOf word;
        description = "The groups that it must name, no other.";
      };
    };
  };

  # The twin of smallkube/secrets/identities.py.
  document = pkgs.writeText "identities" (
    lib.concatMapStrings (one: ''
      # identity ${lib.concatStringsSep " " ([ one.name one.user ] ++ one.groups)}
      ${builtins.readFile one.file}'') cfg.identities
    + "# end ${toString (lib.length cfg.identities)}\n"
  );

  program = pkgs.writeShellApplication {
    name = "kube-identities";
    runtimeInputs = [
      pkgs.coreutils
      pkgs.gawk
      pkgs.gnugrep
      pkgs.gnused
      pkgs.openssl
      pkgs.util-linux
    ];
    text = builtins.readFile ./identities.sh;
  };

  # To the certificates in the ConfigMap the API server adds its own and removes expired ones only. So that aggregated
  # API servers trust no removed one either, the ConfigMap is deleted; the API server writes it anew at once
  # (pkg/controlplane/controller/clusterauthenticationtrust).
  publish = pkgs.writeShellApplication {
    name = "kube-identities-publish";
    runtimeInputs = [
      pkgs.coreutils
      pkgs.gawk
      cfg.package
    ];
    text = ''
      authentication() { kubectl --request-timeout=20s --namespace=kube-system "$@"; }
      leaves() { awk '/^-----BEGIN/ { leaf = ""; inside = 1; next } /^-----END/ { print leaf; inside = 0 } inside { leaf = leaf $0 }' | sort; }
      while ((SECONDS < 20)); do
        published=$(authentication get configmap extension-apiserver-authentication --ignore-not-found \
          --output='jsonpath={.data.client-ca-file}' | leaves)
        if [ -z "$(comm -23 <(printf '%s\n' "$published") <({ echo; leaves <${state}/clients.crt; } | sort -u))" ]; then
          exit 0
        fi
        authentication delete configmap extension-apiserver-authentication --ignore-not-found
        sleep 0.1
      done
      echo "aggregated API servers are still told of certificates that were removed" >&2
      exit 1
    '';
  };

  # Until the API server knows a kubelet's certificate, exec, logs and metrics of its node fail. Before 1.36 it reads them at
  # its start only (client-go transport: CAFile is loaded once), so it is restarted. Since then it reads them again with
  # the first plain request to a kubelet that comes five minutes after it last did (ca_rotation.go, caRefreshDuration;
  # exec is none, so kube-node-roles makes one). That is soon enough for a node that is new, but not for one that is about
  # to change its certificate. One that goes can wait.
  rereads = lib.versionAtLeast cfg.kubernetesMinor "1.36";
  kubelets = pkgs.writeShellApplication {
    name = "kube-identities-kubelets";
    runtimeInputs = [
      pkgs.coreutils
      pkgs.diffutils
      pkgs.gawk
      config.systemd.package
    ];
    text = ''
      file=${cfg.kubeletsFile}
      if cmp -s "$1" "$file"; then
        exit 0
      fi
      install -m 0644 "$1" "$file.new"
      mv -fT "$file.new" "$file"
      if ! [ -e "$file.known" ]; then
        exit 0
      fi
      unknown=$(awk '
        /^# / { node = $2; next }
        /^-----BEGIN/ { leaf = ""; next }
        !/^-----END/ { leaf = leaf $0; next }
        FNR == NR { known[leaf]; knownNode[node]; next }
        !(leaf in known) && (node in knownNode || ${toString (if rereads then 0 else 1)}) { print node }
      ' "$file.known" "$file")
      if [ "$unknown" ]; then
        echo "the API server restarts, to know the certificates of kubelets:" "$unknown"
        systemctl --no-block try-restart kube-apiserver.service
      else
        cp "$file" "$file.known"
      fi
    '';
  };
in
{
  options.kube = {
    identities = mkOption {
      type = types.listOf identity;
      default = [ ];
      description = "The certificates by which the API server knows its users.";
    };
    identitiesFile = mkOption {
      type = types.str;
      internal = true;
      readOnly = true;
      default = "${state}/clients.crt";
      description = "The bundle of the certificates that are accepted.";
    };
    kubeletsFile = mkOption {
      type = types.str;
      internal = true;
      readOnly = true;
      default = "${state}/kubelets.crt";
      description = "The serving certificates of all kubelets.";
    };
  };

  config = lib.mkIf cfg.isPrimary {
    environment.systemPackages = [
      program
      publish
    ];
    systemd.services.kube-identities = {
      description = "Certificates that the API server accepts";
      wantedBy = [ "multi-user.target" ];
      unitConfig = kubeLib.noStartLimit;
      serviceConfig = lib.mkMerge [
        kubeLib.hardening
        kubeLib.retry
        {
          Type = "oneshot";
          RemainAfterExit = true;
          PrivateNetwork = lib.mkDefault true;
          StateDirectory = "kube-identities";
          StateDirectoryMode = "0755";
          ExecStart = [
            "${lib.getExe program} install ${document}"
            "${lib.getExe kubelets} ${cfg.kubeletCertificates}"
          ];
        }
      ];
    };
    # Runs again when the certificates change.
    kube.activationScript = lib.mkAfter ''
      # ${document}
      ${lib.getExe publish}
    '';
  };
}
