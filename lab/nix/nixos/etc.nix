# Files under /etc, /etc/hosts, tmpfiles, sysctl (NixOS 25.11: system/etc/etc.nix, config/networking.nix,
# system/boot/systemd/tmpfiles.nix, config/sysctl.nix).
{ config, lib, ... }:
let
  net = config.networking;
  hostsText = hosts: lib.concatStrings (lib.mapAttrsToList
    (address: names: lib.optionalString (names != [ ]) "${address} ${toString names}\n")
    hosts);
  # A file that a module wrote has its text at hand; anything else is read.
  content = file: file.text or (builtins.readFile file);
  rule = path: type: r: lib.concatStringsSep " " ([ r.type (quote path) r.mode r.user r.group r.age ] ++ lib.optional (r.argument != "") r.argument);
  quote = path: if lib.hasInfix " " path then ''"${path}"'' else path;
in
{
  config = {
    networking.hosts = {
      "127.0.0.1" = [ "localhost" ];
      "::1" = lib.optional net.enableIPv6 "localhost";
      "127.0.0.2" = lib.optional (net.hostName != "") (if net.domain == null then net.hostName else "${net.hostName}.${net.domain}");
    };

    system.build = {
      hosts = hostsText net.hosts + net.extraHosts + lib.concatMapStrings content net.hostFiles;

      etc = lib.mapAttrs'
        (_: file: lib.nameValuePair file.target {
          inherit (file) mode;
          text = file.source.text or null;
          source =
            if file.source == null then throw "environment.etc.\"${file.target}\" has neither text nor source"
            else if file.source ? text then null
            else "${file.source}";
          user = if file.uid == 0 then file.user else toString file.uid;
          group = if file.gid == 0 then file.group else toString file.gid;
        })
        (lib.filterAttrs (_: file: file.enable) config.environment.etc);

      sysctl = builtins.mapAttrs (_: value: if value == false then "0" else toString value)
        (lib.filterAttrs (_: value: value != null) config.boot.kernel.sysctl);

      tmpfiles = config.systemd.tmpfiles.rules
        ++ lib.concatLists (lib.mapAttrsToList
        (_: paths: lib.concatLists (lib.mapAttrsToList (path: rules: lib.mapAttrsToList (rule path) rules) paths))
        config.systemd.tmpfiles.settings);
    };
  };
}
