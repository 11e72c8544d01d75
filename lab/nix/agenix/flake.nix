{
  description = "smallkube's lab: stands in for agenix; the secrets are decrypted by the lab node's own program";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";

  outputs = _: {
    nixosModules = rec {
      age = import ./modules/age.nix;
      default = age;
    };
  };
}
