# The descriptions of all (or some) nodes of a tree, for `nix-instantiate --eval --strict --json`.
#   tree   folder with nix/rendered/nodeN.nix: a bundle, or a workspace that has everything in it
#   nodes  names; null: every node that has a rendered file
#   lib    nixpkgs' lib; null: the subset in ./lib
#   nixos, minor   the release that is stood in for, and the minor of Kubernetes in its package set
# The texts of generated files and scripts come on standard error, one line each: smallkube-text {node, path, …}.
{ tree, nodes ? null, lib ? null, sw ? "/opt/smallkube-lab/pkgs", nixos ? (import ./release.nix).nixos, minor ? (import ./release.nix).kubernetes }:
let
  usedLib = if lib == null then import ./lib else if builtins.isAttrs lib then lib else import (/. + toString lib);
  rendered = /. + "${toString tree}/nix/rendered";
  files = builtins.attrNames (builtins.readDir rendered);
  found = builtins.concatMap
    (file: let name = builtins.match "(node[0-9]+)\\.nix" file; in if name == null then [ ] else name)
    files;
  evalConfig = node: import ./eval-config.nix {
    lib = usedLib;
    inherit sw;
    record = node;
    release = { inherit nixos; kubernetes = minor; };
  };
in
usedLib.genAttrs (if nodes == null then found else nodes) (name:
(evalConfig name {
  modules = [ ./agenix/modules/age.nix (rendered + "/${name}.nix") ];
}).config.system.build.description)
