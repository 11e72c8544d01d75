{
  description = "smallkube's lab: stands in for the flake nixpkgs where there is no NixOS to build";

  outputs = _:
    let
      lib = import ./lib;
    in
    {
      lib = lib // { nixosSystem = import ./eval-config.nix { inherit lib; }; };
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: import ./pkgs.nix { inherit lib system; });
    };
}
