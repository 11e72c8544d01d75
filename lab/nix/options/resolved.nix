# services.resolved, which differs between the releases (nixos/modules/system/boot/resolved.nix): 26.05 has `settings`, and
# neither `extraConfig` nor the options that it renamed (release notes of 26.05).
nixos:
{ lib, ... }:
let
  inherit (lib) mkOption types;
  strings = mkOption { type = types.listOf types.str; default = [ ]; };
in
{
  options.services.resolved = {
    enable = mkOption { type = types.bool; default = false; };
  } // (if lib.versionAtLeast nixos "26.05" then {
    settings = mkOption {
      default = { };
      type = types.submodule {
        freeformType = types.attrsOf types.attrs;
        options.Resolve = mkOption { type = types.attrsOf types.unspecified; default = { }; };
      };
    };
  } else {
    extraConfig = mkOption { type = types.lines; default = ""; };
    fallbackDns = mkOption { type = types.nullOr (types.listOf types.str); default = null; };
    domains = strings;
    llmnr = mkOption { type = types.enum [ "true" "resolve" "false" ]; default = "true"; };
    dnssec = mkOption { type = types.enum [ "true" "allow-downgrade" "false" ]; default = "false"; };
    dnsovertls = mkOption { type = types.enum [ "true" "opportunistic" "false" ]; default = "false"; };
  });
}
