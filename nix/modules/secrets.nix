# Secrets reach this node one by one, named by the policy (kube.secretFiles), never by what happens to lie in a folder.
# agenix decrypts them to /run/agenix and restarts nothing: whoever uses a secret takes kube.secretTriggers.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.kube;
  public = name: cfg.keysDir + "/${name}";
  missingPublic = lib.filter (name: !builtins.pathExists (public name)) (lib.unique cfg.requiredPublic);
  # NAME.crt, and during a rotation NAME.new.crt or NAME.old.crt beside it.
  beside = name: map (word: "${lib.removeSuffix ".crt" name}${word}.crt") [ "" ".new" ".old" ];
  missing = lib.filter (name: !(cfg.secretFiles ? ${name})) (lib.unique cfg.requiredSecrets);
in
{
  options.kube = {
    keysDir = mkOption {
      type = types.path;
      description = "Folder with the public certificates.";
    };
    nodeTokens = mkOption {
      type = types.enum [ "separate" "wireguard" ];
      default = "separate";
      description = "What a node presents to the API: a token of its own, or its WireGuard private key.";
    };
    secretFiles = mkOption {
      type = types.attrsOf types.path;
      default = { };
      description = "Exactly the secrets that this node may read: name under /run/agenix to .age file.";
    };
    requiredSecrets = mkOption {
      type = types.listOf types.str;
      default = [ ];
      internal = true;
      description = "Secrets that this node's services can't do without.";
    };
    secretPath = mkOption {
      type = types.functionTo types.str;
      internal = true;
      default = name: config.age.secrets.${name}.path or "/run/agenix/${name}";
      description = "Where a secret lies in clear.";
    };
    secretTriggers = mkOption {
      type = types.functionTo (types.listOf types.str);
      internal = true;
      default = names: map (name: "${cfg.secretFiles.${name}}") (lib.filter (name: cfg.secretFiles ? ${name}) names);
      description = "restartTriggers of a service that uses these secrets: their encrypted files in the store.";
    };
    loadSecrets = mkOption {
      type = types.functionTo (types.listOf types.str);
      internal = true;
      default = map (name: "${name}:${cfg.secretPath name}");
      description = "LoadCredential= of a service that uses these secrets.";
    };
    requiredPublic = mkOption {
      type = types.listOf types.str;
      default = [ ];
      internal = true;
      description = "Certificates that this node's services can't do without.";
    };
    publicFile = mkOption {
      type = types.functionTo types.str;
      internal = true;
      default = name: if builtins.pathExists (public name) then "${public name}" else "/var/empty/${name}";
      description = "A certificate in keys/ as a store path of its own, so that it changes only with its content.";
    };
    trustedFile = mkOption {
      type = types.functionTo types.path;
      internal = true;
      default = names: pkgs.writeText "trusted.crt" (
        lib.concatMapStrings (name: builtins.readFile (public name)) (lib.filter (name: builtins.pathExists (public name)) (lib.concatMap beside names))
      );
      description = "What whoever is shown one of these certificates trusts: also the one that replaces it, or that it has replaced.";
    };
  };

  config = {
    age.secrets = lib.mapAttrs (_: file: { inherit file; }) cfg.secretFiles;
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
