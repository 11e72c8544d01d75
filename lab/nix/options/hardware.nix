# What a machine's own file says of its hardware, which a lab node does not have: nothing acts on it. Names and types as
# in NixOS 25.11 (system/boot/loader/*, system/boot/kernel.nix, stage-1.nix, tasks/filesystems.nix, config/swap.nix,
# tasks/network-interfaces.nix, hardware/cpu/*, hardware/all-firmware.nix, virtualisation/qemu-guest-agent.nix).
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  flag = default: mkOption { type = types.bool; inherit default; };
  strings = mkOption { type = types.listOf types.str; default = [ ]; };
  optional = type: mkOption { type = types.nullOr type; default = null; };
  family = bits: {
    addresses = mkOption {
      default = [ ];
      type = types.listOf (types.submodule {
        options = {
          address = mkOption { type = types.str; };
          prefixLength = mkOption { type = types.ints.between 0 bits; };
        };
      });
    };
  };
  gateway = mkOption {
    default = null;
    type = types.nullOr (types.coercedTo types.str (address: { inherit address; }) (types.submodule {
      options = {
        address = mkOption { type = types.str; };
        interface = optional types.str;
        metric = optional types.int;
      };
    }));
  };
in
{
  options = {
    boot = {
      loader = {
        timeout = mkOption { type = types.nullOr types.int; default = 5; };
        systemd-boot.enable = flag false;
        efi.canTouchEfiVariables = flag false;
        efi.efiSysMountPoint = mkOption { type = types.str; default = "/boot"; };
        grub = {
          enable = flag (!config.boot.isContainer);
          device = mkOption { type = types.str; default = ""; };
          devices = strings;
          efiSupport = flag false;
          efiInstallAsRemovable = flag false;
        };
        generic-extlinux-compatible.enable = flag false;
        generic-extlinux-compatible.configurationLimit = mkOption { type = types.int; default = 20; };
      };
      initrd.availableKernelModules = strings;
      initrd.kernelModules = strings;
      kernelParams = strings;
      growPartition = flag false;
    };
    fileSystems = mkOption {
      default = { };
      type = types.attrsOf (types.submodule {
        options = {
          device = optional types.nonEmptyStr;
          fsType = mkOption { type = types.nonEmptyStr; default = "auto"; };
          options = mkOption { type = types.nonEmptyListOf types.nonEmptyStr; default = [ "defaults" ]; };
          autoResize = flag false;
          neededForBoot = flag false;
        };
      });
    };
    hardware = {
      enableRedistributableFirmware = flag false;
      cpu.amd.updateMicrocode = flag false;
      cpu.intel.updateMicrocode = flag false;
    };
    networking = {
      interfaces = mkOption {
        default = { };
        type = types.attrsOf (types.submodule {
          options = { useDHCP = optional types.bool; ipv4 = family 32; ipv6 = family 128; };
        });
      };
      defaultGateway = gateway;
      defaultGateway6 = gateway;
      nameservers = strings;
    };
    services.qemuGuest.enable = flag false;
    time.timeZone = optional types.str;
  };
}
