# What NixOS 25.11 does with the options that our modules and a host file use, as far as the lab applies it.
# Options: ./options; what becomes of them: ./nixos. The result is config.system.build.description.
{
  imports = [
    ./options/hardware.nix
    ./options/networking.nix
    ./options/services.nix
    ./options/system.nix
    ./options/systemd.nix
    ./nixos/activation.nix
    ./nixos/description.nix
    ./nixos/etc.nix
    ./nixos/firewall.nix
    ./nixos/networkd.nix
    ./nixos/nftables.nix
    ./nixos/services.nix
    ./nixos/units.nix
    ./nixos/unsupported.nix
    ./nixos/users.nix
  ];
}
