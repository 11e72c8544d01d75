# A small stand-in for the `lib` of nixpkgs: the functions, types and module system that the modules in
# nix/modules and the evaluator in this folder use, with the meaning they have in nixpkgs. Written for this
# repository; tests/integration/test_lib_subset.py compares it with the real one where that is at hand.
let
  self = lists // attrsets // strings // trivial // meta // modules // {
    inherit lists attrsets strings trivial meta modules options generators versions;
    types = typeSystem.types;
    inherit (modules) evalModules;
    inherit (options) mkOption mkEnableOption mkPackageOption isOption showOption literalExpression literalMD mergeEqualOption mergeOneOption;
    inherit (typeSystem) mkOptionType isType setType;
    inherit (versions) versionAtLeast versionOlder;
  };
  arguments = { lib = self; };
  trivial = import ./trivial.nix arguments;
  lists = import ./lists.nix arguments;
  attrsets = import ./attrsets.nix arguments;
  strings = import ./strings.nix arguments;
  meta = import ./meta.nix arguments;
  generators = import ./generators.nix arguments;
  versions = import ./versions.nix arguments;
  options = import ./options.nix arguments;
  typeSystem = import ./types.nix arguments;
  modules = import ./modules.nix arguments;
in
self
