# A server or PC with UEFI and one NVMe or SATA disk, static addresses. Installed by `inv nodes.install`.
# Copy it to nix/hosts/NODE.nix, and change what is marked with <-.
{ lib, ... }:
let
  # Written by nodes.install on the machine: its drivers.
  hardware = ./node3-hardware.nix; # <- the name of the node
in
{
  imports = [
    "${
      builtins.fetchTarball {
        url = "https://github.com/nix-community/disko/archive/refs/tags/v1.13.0.tar.gz";
        sha256 = "03jz60kw0khm1lp72q65z8gq69bfrqqbj08kw0hbiav1qh3g7p08";
      }
    }/module.nix"
  ]
  ++ lib.optional (builtins.pathExists hardware) hardware;

  nixpkgs.hostPlatform = "x86_64-linux";
  system.stateVersion = "26.05"; # the release that is installed; stays when that is upgraded

  disko.devices.disk.main = {
    device = "/dev/disk/by-id/nvme-CHANGE-ME"; # <- `ls -l /dev/disk/by-id` on the machine
    content = {
      type = "gpt";
      partitions = {
        ESP = {
          size = "1G";
          type = "EF00";
          content = {
            type = "filesystem";
            format = "vfat";
            mountpoint = "/boot";
            mountOptions = [ "umask=0077" ];
          };
        };
        root = {
          size = "100%";
          content = {
            type = "filesystem";
            format = "ext4";
            mountpoint = "/";
          };
        };
      };
    };
  };

  boot.loader.systemd-boot.enable = true;
  boot.loader.systemd-boot.configurationLimit = 10;
  boot.loader.efi.canTouchEfiVariables = true;
  boot.initrd.availableKernelModules = [
    "ahci"
    "nvme"
    "sd_mod"
    "usbhid"
    "xhci_pci"
  ];
  hardware.enableRedistributableFirmware = true;
  hardware.cpu.intel.updateMicrocode = true;
  hardware.cpu.amd.updateMicrocode = true;

  # Without this block: DHCP.
  networking.interfaces.enp1s0 = {
    # <- `ip link` on the machine
    useDHCP = false;
    ipv4.addresses = [
      {
        address = "192.168.0.3"; # <-
        prefixLength = 24;
      }
    ];
  };
  networking.defaultGateway = {
    address = "192.168.0.254"; # <-
    interface = "enp1s0";
  };
  networking.nameservers = [ "192.168.0.254" ]; # <-

  users.users.root.openssh.authorizedKeys.keys = [
    # <- "ssh-ed25519 AAAA… you": without a key, nodes.install and nix.check complain
  ];
}
