# A stand-in for disko: the options of a disk with a GPT and file systems, and the configuration that they come to; it
# partitions nothing. Names, types and defaults as in disko 1.13.0 (module.nix, lib/types/disk.nix, gpt.nix,
# filesystem.nix).
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  absolute = types.strMatching "/.*";
  hex = len: "[A-Fa-f0-9]{${toString len}}";
  strings = default: mkOption { type = types.listOf types.str; inherit default; };

  filesystem = types.submodule {
    options = {
      type = mkOption { type = types.enum [ "filesystem" ]; };
      format = mkOption { type = types.str; };
      mountpoint = mkOption { type = types.nullOr absolute; default = null; };
      mountOptions = strings [ "defaults" ];
      extraArgs = strings [ ];
    };
  };
  gpt = types.submodule {
    options = {
      type = mkOption { type = types.enum [ "gpt" ]; };
      partitions = mkOption {
        default = { };
        type = types.attrsOf (types.submodule {
          options = {
            type = mkOption {
              type = types.either (types.strMatching (hex 4)) (types.strMatching (lib.concatMapStringsSep "-" hex [ 8 4 4 4 12 ]));
              default = "8300";
            };
            size = mkOption { type = types.either (types.enum [ "100%" ]) (types.strMatching "[0-9]+[KMGTP]?"); default = "0"; };
            start = mkOption { type = types.str; default = "0"; };
            content = mkOption { type = types.nullOr filesystem; default = null; };
          };
        });
      };
    };
  };

  disks = lib.mapAttrsToList (name: disk: { inherit name disk; }) config.disko.devices.disk;
  partitions = lib.concatMap
    ({ name, disk }: lib.mapAttrsToList (part: value: value // { inherit disk; label = "disk-${name}-${part}"; })
      (if disk.content == null then { } else disk.content.partitions))
    disks;
  mounted = builtins.filter (each: (each.content.mountpoint or null) != null) partitions;
in
{
  options.disko.devices.disk = mkOption {
    default = { };
    type = types.attrsOf (types.submodule {
      options = {
        type = mkOption { type = types.enum [ "disk" ]; default = "disk"; };
        device = mkOption { type = absolute; };
        destroy = mkOption { type = types.bool; default = true; };
        content = mkOption { type = types.nullOr gpt; default = null; };
      };
    });
  };

  config = {
    fileSystems = builtins.listToAttrs (map
      (each: {
        name = each.content.mountpoint;
        value = {
          device = "/dev/disk/by-partlabel/${each.label}";
          fsType = each.content.format;
          options = each.content.mountOptions;
        };
      })
      mounted);
    boot.loader.grub.devices = map (each: each.disk.device) (builtins.filter (each: each.type == "EF02") partitions);
  };
}
