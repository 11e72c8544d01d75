# Activation scripts in the order of their dependencies (NixOS 25.11: system/activation/activation-script.nix). The steps
# that NixOS itself brings have no text here: the lab's own programs do them, before any script that has one.
{ config, lib, ... }:
let
  scripts = config.system.activationScripts;
  visit = seen: name:
    if builtins.any (entry: entry.name == name) seen.done then seen
    else if builtins.elem name seen.open
    then throw "activation scripts depend on each other in a circle: ${lib.concatStringsSep " -> " (seen.open ++ [ name ])}"
    else if !(scripts ? ${name})
    then throw "the activation script `${lib.last seen.open}' depends on `${name}', which does not exist"
    else
      let below = builtins.foldl' visit (seen // { open = seen.open ++ [ name ]; }) scripts.${name}.deps; in
      { inherit (seen) open; done = below.done ++ [{ inherit name; inherit (scripts.${name}) text; }]; };
in
{
  config = {
    system.activationScripts =
      lib.genAttrs [ "specialfs" "users" "usrbinenv" "binsh" "var" "modprobe" "hostname" ] (_: { text = ""; }) // {
        groups = { text = ""; deps = [ "users" ]; };
        etc = { text = ""; deps = [ "users" "groups" "specialfs" ]; };
      };
    system.build.activationScripts = (builtins.foldl' visit { open = [ ]; done = [ ]; } (builtins.attrNames scripts)).done;
  };
}
