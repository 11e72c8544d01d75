# /etc, users, packages, kernel, activation. Names and types as in NixOS 25.11 (nixos/modules/system/etc/etc.nix,
# config/users-groups.nix, config/system-path.nix, config/sysctl.nix, system/activation/activation-script.nix).
{ config, lib, pkgs, labRelease, ... }:
let
  inherit (lib) mkOption types;
  flag = default: mkOption { type = types.bool; inherit default; };
  strings = mkOption { type = types.listOf types.str; default = [ ]; };
  optional = type: mkOption { type = types.nullOr type; default = null; };
  entry = types.passwdEntry types.str;
in
{
  options = {
    assertions = mkOption { type = types.listOf types.unspecified; default = [ ]; internal = true; };
    warnings = mkOption { type = types.listOf types.str; default = [ ]; internal = true; };
    meta = mkOption { type = types.attrsOf types.unspecified; default = { }; internal = true; };
    nixpkgs.overlays = mkOption { type = types.listOf types.unspecified; default = [ ]; };
    nixpkgs.hostPlatform = mkOption { type = types.either types.str types.attrs; default = "x86_64-linux"; };

    environment.systemPackages = mkOption { type = types.listOf types.package; default = [ ]; };
    environment.etc = mkOption {
      default = { };
      type = types.attrsOf (types.submodule ({ name, config, options, ... }: {
        options = {
          enable = flag true;
          target = mkOption { type = types.str; default = name; };
          text = mkOption { type = types.nullOr types.lines; default = null; };
          source = mkOption { type = types.nullOr types.path; default = null; };
          mode = mkOption { type = types.str; default = "symlink"; };
          uid = mkOption { type = types.int; default = 0; };
          gid = mkOption { type = types.int; default = 0; };
          user = mkOption { type = types.str; default = "root"; };
          group = mkOption { type = types.str; default = "root"; };
        };
        # A text is a source of the same priority: beside another source it conflicts, with mkForce it wins.
        config.source = lib.mkIf (config.text != null)
          (lib.mkOverride options.text.highestPrio (pkgs.writeText "etc-${baseNameOf name}" config.text));
      }));
    };

    users = {
      mutableUsers = flag true;
      defaultUserShell = mkOption { type = types.either types.path types.shellPackage; default = "/run/current-system/sw/bin/bash"; };
      groups = mkOption {
        default = { };
        type = types.attrsOf (types.submodule ({ name, ... }: {
          options = {
            name = mkOption { type = entry; default = name; };
            gid = optional types.int;
            members = mkOption { type = types.listOf entry; default = [ ]; };
          };
        }));
      };
      users = mkOption {
        default = { };
        type = types.attrsOf (types.submodule ({ name, ... }@user: {
          options = {
            name = mkOption { type = entry; default = name; };
            uid = optional types.int;
            group = mkOption { type = types.str; default = ""; };
            extraGroups = strings;
            description = mkOption { type = entry; default = ""; };
            isSystemUser = flag false;
            isNormalUser = flag false;
            home = mkOption { type = types.passwdEntry types.path; default = "/var/empty"; };
            homeMode = mkOption { type = types.strMatching "[0-7]{1,5}"; default = "700"; };
            createHome = flag false;
            linger = flag false;
            useDefaultShell = flag false;
            shell = mkOption { type = types.nullOr (types.either types.package (types.passwdEntry types.path)); default = "/run/current-system/sw/bin/nologin"; };
            packages = mkOption { type = types.listOf types.package; default = [ ]; };
            hashedPassword = optional entry;
            hashedPasswordFile = optional types.str;
            initialHashedPassword = optional entry;
            initialPassword = optional types.str;
            password = optional types.str;
            openssh.authorizedKeys.keys = mkOption { type = types.listOf types.singleLineStr; default = [ ]; };
            openssh.authorizedKeys.keyFiles = mkOption { type = types.listOf types.path; default = [ ]; };
          };
          config = lib.mkMerge [
            (lib.mkIf user.config.isNormalUser {
              group = lib.mkDefault "users";
              createHome = lib.mkDefault true;
              home = lib.mkDefault "/home/${user.config.name}";
              useDefaultShell = lib.mkDefault true;
            })
            (lib.mkIf user.config.useDefaultShell { shell = lib.mkDefault config.users.defaultUserShell; })
          ];
        }));
      };
    };

    boot.isContainer = flag false;
    # Our modules set them (system/boot/loader/grub/grub.nix, systemd-boot/systemd-boot.nix); a lab node has no boot loader.
    boot.loader.systemd-boot.configurationLimit = optional types.int;
    boot.loader.grub.configurationLimit = mkOption { type = types.int; default = 100; };
    boot.kernelModules = strings;
    boot.kernel.sysctl = mkOption {
      default = { };
      type = types.attrsOf (lib.mkOptionType {
        name = "sysctl option value";
        check = value: value == null || builtins.isBool value || builtins.isString value || builtins.isInt value;
        # The same value twice is refused too.
        merge = lib.mergeOneOption;
      });
    };

    system.stateVersion = mkOption { type = types.str; default = labRelease; };
    system.build = mkOption { type = types.lazyAttrsOf types.unspecified; default = { }; };
    system.activationScripts = mkOption {
      default = { };
      type = types.attrsOf (types.either types.str (types.submodule {
        options = {
          deps = strings;
          text = mkOption { type = types.lines; };
          supportsDryActivation = flag false;
        };
      }));
      apply = builtins.mapAttrs (_: script: if builtins.isString script then lib.noDepEntry script else script);
    };
  };
}
