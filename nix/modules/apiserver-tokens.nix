# The API server's table of tokens, written again before each start: a changed or removed token takes effect then.
# Whose the tokens are comes from the policy (kube.apiserver.tokenUsers); of each, the .old or .new version is accepted as
# well during a rotation.
#
# The API server refuses the whole file for one bad row (k8s.io/apiserver tokenfile), and of two rows with one token the
# last wins: both are found here, before the file is replaced, and say which secret is wrong.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.kube;

  user = types.submodule {
    options = {
      secret = mkOption {
        type = types.str;
        description = "The secret that is its token.";
      };
      name = mkOption {
        type = types.str;
        description = "Its name.";
      };
      groups = mkOption {
        type = types.listOf types.str;
        description = "The groups that it is in.";
      };
    };
  };
  current = cfg.apiserver.tokenUsers;
  named = word: map (entry: entry // { secret = entry.secret + word; }) current;
  rows =
    current ++ lib.filter (entry: cfg.secretFiles ? ${entry.secret}) (named ".new" ++ named ".old");
in
{
  options.kube.apiserver = {
    tokenUsers = mkOption {
      type = types.listOf user;
      default = [ ];
      description = "The users of the API server that have a token.";
    };
    tokenSecrets = mkOption {
      type = types.listOf types.str;
      internal = true;
      readOnly = true;
      default = map (entry: entry.secret) rows;
      description = "The secrets that are API tokens, as far as they exist.";
    };
    writeTokens = mkOption {
      type = types.package;
      internal = true;
      readOnly = true;
      default = pkgs.writeShellApplication {
        name = "kube-apiserver-tokens";
        runtimeInputs = [ pkgs.coreutils ];
        text = ''
          if [ "$#" -ne 1 ]; then
            echo "usage: CREDENTIALS_DIRECTORY=DIR kube-apiserver-tokens FILE" >&2
            exit 64
          fi
          umask 077
          new=$(mktemp "$1.XXXXXX")
          trap 'rm -f "$new"' EXIT
          declare -A owner=()

          # row SECRET NAME GROUP: the name is the UID too
          row() {
            local token
            if [ ! -r "$CREDENTIALS_DIRECTORY/$1" ]; then
              echo "kube-apiserver-tokens: secret $1 can't be read" >&2
              exit 66
            fi
            token=$(<"$CREDENTIALS_DIRECTORY/$1")
            if [[ ! "$token" =~ ^[A-Za-z0-9+/=]{16,}$ ]]; then
              echo "kube-apiserver-tokens: secret $1 is empty or not a token" >&2
              exit 65
            fi
            if [ "''${owner[$token]:-$2}" != "$2" ]; then
              echo "kube-apiserver-tokens: secret $1 is also the token of ''${owner[$token]}" >&2
              exit 65
            fi
            owner[$token]=$2
            if [ -n "$3" ]; then
              printf '%s,"%s","%s","%s"\n' "$token" "$2" "$2" "$3"
            else
              printf '%s,"%s","%s"\n' "$token" "$2" "$2"
            fi >>"$new"
          }

          ${lib.concatMapStringsSep "\n" (
            entry:
            "row ${
              lib.escapeShellArgs [
                entry.secret
                entry.name
                (lib.concatStringsSep "," entry.groups)
              ]
            }"
          ) rows}
          mv -fT "$new" "$1"
          rm -f /var/lib/kube-apiserver/tokens.csv # where earlier versions had it, on a disk
        '';
      };
      description = "Writes the table to the file it is given.";
    };
  };

  config.kube.requiredSecrets = lib.optionals cfg.isPrimary (map (entry: entry.secret) current);
}
