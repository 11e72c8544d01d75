# Secrets reach this node one by one, named by the policy (kube.secretFiles), never by what happens to be in a folder.
# agenix decrypts them to /run/agenix and restarts nothing: a unit that uses a secret takes kubeLib.secretTriggers.
{
  config,
  kubeLib,
  lib,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.kube;
  missingPublic = lib.filter (name: !kubeLib.isPublic name) (lib.unique cfg.requiredPublic);
  missing = lib.filter (name: !(cfg.secretFiles ? ${name})) (lib.unique cfg.requiredSecrets);
in
{
  options.kube = {
    keysDir = mkOption {
      type = types.path;
      description = "Folder with the public certificates.";
    };
    secretFiles = mkOption {
      type = types.attrsOf types.path;
      default = { };
      description = "Exactly the secrets that this node may read: name under /run/agenix to .age file.";
    };
    secretAccess = mkOption {
      type = types.attrsOf (types.attrsOf types.str);
      default = { };
      example = {
        "wgkube.key" = {
          group = "systemd-network";
          mode = "0440";
        };
      };
      description = "Owner, group and mode under /run/agenix, of the secrets that not root alone may read.";
    };
    requiredSecrets = mkOption {
      type = types.listOf types.str;
      default = [ ];
      internal = true;
      description = "Secrets that this node's services can't do without.";
    };
    requiredPublic = mkOption {
      type = types.listOf types.str;
      default = [ ];
      internal = true;
      description = "Certificates that this node's services can't do without.";
    };
  };

  config = {
    age.secrets = lib.mapAttrs (
      name: file: { inherit file; } // cfg.secretAccess.${name} or { }
    ) cfg.secretFiles;
    assertions = [
      {
        assertion = missing == [ ];
        message = "kube.secretFiles lacks ${lib.concatStringsSep ", " missing}; run: inv keys.generate, then inv nix.render";
      }
      {
        assertion = missingPublic == [ ];
        message = "keys/ lacks ${lib.concatStringsSep ", " missingPublic}; run: inv keys.generate";
      }
    ];
  };
}
