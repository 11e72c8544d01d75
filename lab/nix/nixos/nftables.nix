# The rule set and the unit that loads it (NixOS 25.11: services/networking/nftables.nix): each of our tables is deleted
# and made again in one transaction; other tables, such as kube-proxy's, stay. /var/lib/nftables/deletions.nft keeps what
# the running configuration must delete, so that a table that a new configuration no longer has goes away too.
{ config, lib, pkgs, ... }:
let
  cfg = config.networking.nftables;
  tables = builtins.attrValues (lib.filterAttrs (_: table: table.enable) cfg.tables);
  named = table: "${table.family} ${table.name}";
  deletions =
    (if cfg.flushRuleset then "flush ruleset\n"
    else lib.concatMapStrings (table: "table ${named table}\ndelete table ${named table}\n") tables)
    + cfg.extraDeletions;
  indented = text: lib.concatMapStrings (line: if line == "" then "" else "  ${line}\n") (lib.splitString "\n" text);
  contents = lib.concatMapStrings (table: "table ${named table} {\n${indented table.content}}\n") tables
    + lib.optionalString (cfg.ruleset != "") "${cfg.ruleset}\n"
    + lib.optionalString (cfg.rulesetFile != null) "${builtins.readFile cfg.rulesetFile}\n";

  shebang = "#!${pkgs.nftables}/bin/nft -f\n";
  kept = "/var/lib/nftables/deletions.nft";
  deletionsScript = pkgs.writeScript "nftables-deletions" (shebang + deletions);
  ensure = pkgs.writeShellScript "nftables-ensure-deletions" "touch ${kept}\nchmod +x ${kept}\n";
  save = pkgs.writeShellScript "nftables-save-deletions" "cp ${deletionsScript} ${kept}\n";
  cleanup = pkgs.writeShellScript "nftables-cleanup-deletions" "rm ${kept}\n";
  load = pkgs.writeScript "nftables-rules" "${shebang}include \"${kept}\"\ninclude \"${deletionsScript}\"\n${contents}";
in
{
  config = lib.mkMerge [
    { system.build.nftables = lib.mkDefault ""; }
    (lib.mkIf cfg.enable {
      system.build.nftables = deletions + contents;
      environment.systemPackages = [ pkgs.nftables ];
      networking.nftables.flushRuleset = lib.mkDefault
        (lib.versionOlder config.system.stateVersion "23.11" || cfg.rulesetFile != null || cfg.ruleset != "");
      systemd.services.nftables = {
        description = "nftables firewall";
        after = [ "sysinit.target" ];
        before = [ "network-pre.target" "shutdown.target" ];
        conflicts = [ "shutdown.target" ];
        wants = [ "network-pre.target" "sysinit.target" ];
        wantedBy = [ "multi-user.target" ];
        reloadIfChanged = true;
        unitConfig.DefaultDependencies = false;
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          StateDirectory = "nftables";
          ExecStart = [ ensure load ];
          ExecStartPost = save;
          ExecReload = [ ensure load save ];
          ExecStop = [ kept cleanup ];
        };
      };
    })
  ];
}
