# A virtual machine that is rented: BIOS or UEFI, one disk, IPv4 by DHCP, a static IPv6 address, serial console.
# Installed by `inv nodes.install` over the provider's own Linux or rescue system.
# Copy it to nix/hosts/NODE.nix, and change what is marked with <-.
{ modulesPath, ... }:
{
  imports = [
    "${
      builtins.fetchTarball {
        url = "https://github.com/nix-community/disko/archive/refs/tags/v1.13.0.tar.gz";
        sha256 = "03jz60kw0khm1lp72q65z8gq69bfrqqbj08kw0hbiav1qh3g7p08";
      }
    }/module.nix"
    (modulesPath + "/profiles/qemu-guest.nix") # the virtio drivers
  ];

  nixpkgs.hostPlatform = "x86_64-linux"; # <- or "aarch64-linux"
  system.stateVersion = "26.05"; # the release that is installed; stays when that is upgraded

  disko.devices.disk.main = {
    device = "/dev/sda"; # <- `lsblk` on the machine; often /dev/vda or /dev/nvme0n1
    content = {
      type = "gpt";
      partitions = {
        boot = {
          size = "1M";
          type = "EF02"; # for GRUB with a BIOS; disko names this disk to GRUB
        };
        ESP = {
          size = "512M";
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

  boot.loader.grub = {
    efiSupport = true;
    efiInstallAsRemovable = true; # works without EFI variables
    configurationLimit = 10;
  };
  boot.kernelParams = [
    "console=tty0"
    "console=ttyS0,115200n8"
  ];
  services.qemuGuest.enable = true;

  networking.interfaces.enp1s0 = {
    # <- `ip link` on the machine
    useDHCP = true;
    ipv6.addresses = [
      {
        address = "2001:db8::1"; # <- what the provider assigned
        prefixLength = 64;
      }
    ];
  };
  networking.defaultGateway6 = {
    address = "fe80::1"; # <-
    interface = "enp1s0";
  };

  users.users.root.openssh.authorizedKeys.keys = [
    # <- "ssh-ed25519 AAAA… you": without a key, nodes.install and nix.check complain
  ];
}
