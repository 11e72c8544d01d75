# What our services have in common: how they come back after any fault, and how little of the machine they see.
#
# A service that fails is started again for ever, every ten seconds; nothing here is bound to another unit, so that a
# killed or late one never takes others down with it (systemd.unit(5): Requires=, BindsTo=).
{ lib, ... }:
let
  constant = description: value: lib.mkOption {
    type = lib.types.attrsOf lib.types.unspecified;
    internal = true;
    readOnly = true;
    default = value;
    inherit description;
  };
  # systemd.service(5), "Command lines": double quotes and C escapes; %-specifiers stay what they are.
  quoted = word:
    if builtins.match "[][A-Za-z0-9,._+:@%/=-]+" word != null then word
    else builtins.replaceStrings [ "$" ] [ "$$" ] (builtins.toJSON word);
in
{
  options.kube.unit = {
    command = lib.mkOption {
      type = lib.types.functionTo (lib.types.functionTo lib.types.str);
      internal = true;
      readOnly = true;
      default = program: flags:
        lib.concatStringsSep " " ([ program ] ++ lib.concatLists (lib.mapAttrsToList (name: value: map (one: quoted "--${name}=${one}") (lib.toList value)) flags));
      description = "ExecStart= of a program with its flags; one that has a list of values is given for each.";
    };
    endless = constant "[Unit] settings of a service that is started again however often it failed." {
      StartLimitIntervalSec = 0;
    };
    restart = constant "[Service] settings of a service that comes back ten seconds after it ended, for whatever reason." {
      Restart = "always";
      RestartSec = 10;
    };
    hardening = constant "[Service] settings of a service that needs the network, its own folders and nothing else." {
      CapabilityBoundingSet = "";
      LockPersonality = true;
      MemoryDenyWriteExecute = true;
      NoNewPrivileges = true;
      PrivateDevices = true;
      PrivateTmp = true;
      ProtectClock = true;
      ProtectControlGroups = true;
      ProtectHome = true;
      ProtectHostname = true;
      ProtectKernelLogs = true;
      ProtectKernelModules = true;
      ProtectKernelTunables = true;
      ProtectProc = "invisible";
      ProtectSystem = "strict";
      RemoveIPC = true;
      RestrictAddressFamilies = [ "AF_UNIX" "AF_INET" "AF_INET6" "AF_NETLINK" ];
      RestrictNamespaces = true;
      RestrictRealtime = true;
      RestrictSUIDSGID = true;
      SystemCallArchitectures = "native";
      SystemCallErrorNumber = "EPERM";
      SystemCallFilter = [ "@system-service" "~@privileged @resources" ];
      UMask = "0077";
    };
  };
}
