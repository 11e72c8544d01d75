# An image to boot a machine that has no Linux, or none that lets you in: NixOS' installer with your SSH key in it.
#   nix build ./nix/installer                                   the image is in result/iso
#   nix build ./nix/installer#packages.aarch64-linux.default    needs a builder of that architecture
# Write it to a USB stick (dd), or attach it as a CD. Then `inv nodes.install`.
{
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { nixpkgs, ... }:
    let
      keys = [
        # "ssh-ed25519 AAAA… you"
      ];
      installer =
        system:
        nixpkgs.lib.nixosSystem {
          modules = [
            ({ modulesPath, ... }: {
              imports = [ (modulesPath + "/installer/cd-dvd/installation-cd-minimal.nix") ];
              nixpkgs.hostPlatform = system;
              services.openssh.enable = true;
              users.users.root.openssh.authorizedKeys.keys =
                if keys == [ ] then throw "write your SSH key into nix/installer/flake.nix" else keys;
            })
          ];
        };
      systems = nixpkgs.lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] installer;
    in
    {
      nixosConfigurations = systems;
      packages = builtins.mapAttrs (_: each: { default = each.config.system.build.isoImage; }) systems;
    };
}
