# A 64-bit ARM board that boots by U-Boot and extlinux, such as a Raspberry Pi 4, from an SD card with NixOS' image for
# aarch64. That image is a whole NixOS, so there is nothing to install: `inv keys.scan`, then `inv deploy`.
# A board with UEFI is bare metal: bare-metal.nix with nixpkgs.hostPlatform = "aarch64-linux".
# Copy it to nix/hosts/NODE.nix, and change what is marked with <-.
{ ... }:
{
  nixpkgs.hostPlatform = "aarch64-linux";
  system.stateVersion = "26.05"; # the release of the image; stays when that is upgraded

  # As the image makes it: nixos/modules/installer/sd-card in nixpkgs.
  fileSystems."/" = {
    device = "/dev/disk/by-label/NIXOS_SD";
    fsType = "ext4";
    options = [ "noatime" ];
  };
  fileSystems."/boot/firmware" = {
    device = "/dev/disk/by-label/FIRMWARE";
    fsType = "vfat";
    options = [
      "nofail"
      "noauto"
    ];
  };

  boot.loader.grub.enable = false;
  boot.loader.generic-extlinux-compatible.enable = true;
  boot.loader.generic-extlinux-compatible.configurationLimit = 5;
  boot.initrd.availableKernelModules = [
    "usb_storage"
    "usbhid"
    "xhci_pci"
  ];
  boot.kernelParams = [ "console=tty0" ];
  hardware.enableRedistributableFirmware = true;

  users.users.root.openssh.authorizedKeys.keys = [
    # <- "ssh-ed25519 AAAA… you": without a key, nix.check complains
  ];
}
