# One machine: modules → configuration. Stands where nixpkgs has nixos/lib/eval-config.nix.
{ lib, sw ? "/opt/smallkube-lab/pkgs", record ? null, release ? import ./release.nix }:
{ modules, system ? null, specialArgs ? { }, ... }:
let
  # Definitions without an option are kept with their file instead of stopping the evaluation: nixos/unsupported.nix
  # judges them.
  collected = lib.mkOptionType {
    name = "definitions without an option";
    check = builtins.isAttrs;
    merge = _: defs: { lab.unknownDefinitions = defs; };
  };
  evaluated = lib.evalModules {
    class = "nixos";
    specialArgs = { modulesPath = toString ./modules; labRelease = release.nixos; } // specialArgs;
    modules = [
      ./nixos.nix
      (import ./options/resolved.nix release.nixos)
      ({ config, ... }: {
        _file = "the lab";
        config._module = {
          freeformType = collected;
          args.pkgs =
            let
              own = import ./pkgs.nix {
                inherit lib sw record;
                minor = release.kubernetes;
                system =
                  let platform = config.nixpkgs.hostPlatform; in
                  if builtins.isString platform then platform else platform.system;
              };
            in
            builtins.foldl' (pkgs: overlay: pkgs // overlay pkgs pkgs) own config.nixpkgs.overlays;
        };
      })
    ] ++ lib.optional (system != null) { nixpkgs.hostPlatform = lib.mkDefault system; } ++ modules;
  };
in
{
  inherit (evaluated) config options;
  inherit (evaluated._module.args) pkgs;
  inherit lib;
}
