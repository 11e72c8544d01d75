# An image to boot a machine that has no Linux, or none that lets you in: NixOS' installer with your SSH key in it.
#   nix build ./nix/installer#x86_64-linux     the image is then in result/iso
# Built on a machine of the same architecture. Then `inv nodes.install`.
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
      packages = nixpkgs.lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
        system: builtins.mapAttrs (_: each: each.config.system.build.isoImage) systems
      );
    };
}
