# A virtual machine of QEMU/KVM (libvirt, Proxmox): a virtio disk, BIOS or UEFI, DHCP. Installed by `inv nodes.install`.
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

  nixpkgs.hostPlatform = "x86_64-linux";
  system.stateVersion = "26.05"; # the release that is installed; stays when that is upgraded

  disko.devices.disk.main = {
    device = "/dev/vda"; # <- /dev/sda with a SCSI controller
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
  services.qemuGuest.enable = true;

  users.users.root.openssh.authorizedKeys.keys = [
    # <- "ssh-ed25519 AAAA… you": without a key, nodes.install and nix.check complain
  ];
}
