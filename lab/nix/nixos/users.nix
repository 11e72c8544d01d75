# Users and groups (NixOS 25.11: config/users-groups.nix, misc/ids.nix). Those that every NixOS has are declared here so
# that modules can refer to them; a description holds only the others, the lab's Debian has its own.
{ config, lib, ... }:
let
  inherit (lib) mapAttrs;
  cfg = config.users;
  baseUsers = {
    root = { uid = 0; group = "root"; home = "/root"; };
    nobody = { uid = 65534; group = "nogroup"; };
    messagebus = { uid = 4; group = "messagebus"; };
    nscd = { group = "nscd"; };
    sshd = { group = "sshd"; };
    systemd-coredump = { uid = 151; group = "systemd-coredump"; };
    systemd-network = { uid = 152; group = "systemd-network"; };
    systemd-resolve = { uid = 153; group = "systemd-resolve"; };
    systemd-timesync = { uid = 154; group = "systemd-timesync"; };
    systemd-oom = { group = "systemd-oom"; };
  };
  baseGroups = {
    root = 0; wheel = 1; kmem = 2; tty = 3; messagebus = 4; disk = 6; audio = 17; floppy = 18; uucp = 19; lp = 20; cdrom = 24;
    tape = 25; video = 26; dialout = 27; utmp = 29; adm = 55; keys = 96; users = 100; systemd-journal = 62; systemd-network = 152;
    systemd-resolve = 153; systemd-timesync = 154; systemd-coredump = 151; input = 174; kvm = 302; render = 303; sgx = 304; shadow = 318;
    nixbld = 30000; nogroup = 65534; nscd = null; sshd = null; systemd-oom = null;
  };
  added = base: all: lib.filterAttrs (name: _: !(base ? ${name})) all;
  keys = user: user.openssh.authorizedKeys.keys ++ map lib.fileContents user.openssh.authorizedKeys.keyFiles;
  withKeys = lib.filterAttrs (_: user: keys user != [ ]) cfg.users;
  program = x: if lib.isDerivation x then "${x}${x.shellPath or "/bin/${x.meta.mainProgram}"}" else toString x;
in
{
  config = {
    users.users = mapAttrs (_: user: { isSystemUser = true; } // user) baseUsers;
    users.groups = mapAttrs (_: gid: lib.optionalAttrs (gid != null) { inherit gid; }) baseGroups;

    environment.etc = lib.mapAttrs'
      (_: user: lib.nameValuePair "ssh/authorized_keys.d/${user.name}" {
        mode = "0444";
        text = lib.concatMapStrings (key: "${key}\n") (keys user);
      })
      withKeys;

    assertions = lib.concatLists (lib.mapAttrsToList
      (name: user: [
        {
          assertion = user.isSystemUser != user.isNormalUser || user.uid == 0;
          message = "users.users.${name} must be either isSystemUser or isNormalUser";
        }
        {
          assertion = user.group != "";
          message = "users.users.${name}.group is unset: give the user a group.";
        }
      ])
      cfg.users);

    system.build = {
      users = mapAttrs
        (_: user: {
          inherit (user) uid group isSystemUser home extraGroups createHome;
          shell = if user.shell == null then null else program user.shell;
        })
        (added baseUsers cfg.users);
      groups = mapAttrs (_: group: { inherit (group) gid members; }) (added baseGroups cfg.groups);
      baseUsers = builtins.attrNames baseUsers;
      baseGroups = builtins.attrNames baseGroups;
    };
  };
}
