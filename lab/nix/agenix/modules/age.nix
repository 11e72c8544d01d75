# age.*: the options of agenix and the places of its activation steps (github.com/ryantm/agenix, modules/age.nix).
# The steps have no text here: the lab node decrypts what the description lists under "secrets".
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.age;
  asService = config.systemd.sysusers.enable || config.services.userborn.enable;
  usersGroup = owner: config.users.users.${owner}.group or "0";
  text = default: mkOption { type = types.str; inherit default; };
in
{
  options.age = {
    ageBin = text "${pkgs.age}/bin/age";
    secretsDir = mkOption { type = types.path; default = "/run/agenix"; };
    secretsMountPoint = text "/run/agenix.d";
    identityPaths = mkOption {
      type = types.listOf types.path;
      default =
        if config.services.openssh.enable
        then map (key: key.path) (builtins.filter (key: key.type == "rsa" || key.type == "ed25519") config.services.openssh.hostKeys)
        else [ ];
    };
    secrets = mkOption {
      default = { };
      type = types.attrsOf (types.submodule ({ name, config, ... }: {
        options = {
          name = text name;
          file = mkOption { type = types.path; };
          path = text "${cfg.secretsDir}/${config.name}";
          mode = text "0400";
          owner = text "0";
          group = text (usersGroup config.owner);
          symlink = mkOption { type = types.bool; default = true; };
        };
      }));
    };
  };

  config = lib.mkIf (cfg.secrets != { }) {
    assertions = [
      {
        assertion = cfg.identityPaths != [ ];
        message = "age.identityPaths must be set, for example by enabling openssh.";
      }
    ];
    systemd.services.agenix-install-secrets = lib.mkIf asService {
      wantedBy = [ "sysinit.target" ];
      after = [ "systemd-sysusers.service" ];
      unitConfig.DefaultDependencies = "no";
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = "/opt/smallkube-lab/bin/install-secrets";
      };
    };
    system.activationScripts = lib.mkIf (!asService) {
      agenixNewGeneration = { text = ""; deps = [ "specialfs" ]; };
      agenixInstall = { text = ""; deps = [ "agenixNewGeneration" "specialfs" ]; };
      agenixChown = { text = ""; deps = [ "users" "groups" ]; };
      agenix = { text = ""; deps = [ "agenixChown" ]; };
      users.deps = [ "agenixInstall" ];
    };
  };
}
