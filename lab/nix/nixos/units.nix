# Texts of the units and the links that start them (NixOS 25.11: nixos/lib/systemd-lib.nix, system/boot/systemd.nix).
{ config, lib, pkgs, ... }:
let
  inherit (import ./sections.nix { inherit lib; }) lines section;
  cfg = config.systemd;

  triggers = name: kind: values:
    lib.optionalAttrs (values != [ ]) {
      "X-${kind}-Triggers" = "${pkgs.writeText "X-${kind}-Triggers-${name}"
        (toString (map (x: if builtins.isPath x then "${x}" else x) (lib.flatten values)))}";
    };
  unitSection = name: unit: section "Unit"
    (unit.unitConfig // triggers name "Restart" unit.restartTriggers // triggers name "Reload" unit.reloadTriggers);

  environment = set: lib.concatStrings (lib.mapAttrsToList
    (key: value: lib.optionalString (value != null) "Environment=${builtins.toJSON "${key}=${value}"}\n")
    (cfg.globalEnvironment // set));
  onChange = service:
    lib.optionalString service.reloadIfChanged "X-ReloadIfChanged=true\n"
    + lib.optionalString (!service.reloadIfChanged && !service.restartIfChanged) "X-RestartIfChanged=false\n"
    + lib.optionalString (!service.stopIfChanged) "X-StopIfChanged=false\n"
    + lib.optionalString service.notSocketActivated "X-NotSocketActivated=true\n";

  # Units that systemd itself brings: what a module says about them is added, it does not replace them.
  upstream = name: lib.hasPrefix "systemd-" name
    || builtins.elem name [
    "basic.target" "graphical.target" "local-fs.target" "multi-user.target" "network.target" "network-online.target"
    "network-pre.target" "nss-lookup.target" "remote-fs.target" "sysinit.target" "timers.target" "time-sync.target" "user.slice" "system.slice"
  ];

  describe = name: unit: body: {
    text = unitSection name unit + body
      + lib.optionalString (unit.wantedBy != [ ]) "\n[Install]\nWantedBy=${toString unit.wantedBy}\n";
    inherit (unit) aliases enable wantedBy requiredBy;
    upheldBy = unit.upheldBy;
    dropin = unit.overrideStrategy == "asDropin" || upstream name;
  };
  all = suffix: units: body: lib.mapAttrs' (name: unit: lib.nameValuePair "${name}.${suffix}" (describe "${name}.${suffix}" unit (body unit))) units;

  service = unit: "\n[Service]\n" + environment unit.environment + onChange unit + lines unit.serviceConfig;
  plain = name: key: unit: "\n" + section name unit.${key};
  socket = unit: plain "Socket" "socketConfig" unit
    + lib.concatMapStrings (address: "ListenStream=${address}\n") unit.listenStreams
    + lib.concatMapStrings (address: "ListenDatagram=${address}\n") unit.listenDatagrams;
  mountName = where:
    let path = lib.removeSuffix "/" (lib.removePrefix "/" where); in
    if path == "" then "-" else builtins.replaceStrings [ "-" "/" ] [ "\\x2d" "-" ] path;
in
{
  config = {
    # startAt is a timer of the same name.
    systemd.timers = builtins.mapAttrs
      (name: unit: { wantedBy = [ "timers.target" ]; timerConfig.OnCalendar = unit.startAt; })
      (lib.filterAttrs (_: unit: unit.enable && unit.startAt != [ ]) cfg.services);

    systemd.units = builtins.mapAttrs
      (_: unit: {
        inherit (unit) text enable aliases wantedBy requiredBy;
        overrideStrategy = if unit.dropin then "asDropin" else "asDropinIfExists";
      })
      config.system.build.units;

    system.build.units =
      all "service" cfg.services service
      // all "target" cfg.targets (_: "")
      // all "timer" cfg.timers (plain "Timer" "timerConfig")
      // all "path" cfg.paths (plain "Path" "pathConfig")
      // all "slice" cfg.slices (plain "Slice" "sliceConfig")
      // all "socket" cfg.sockets socket
      // builtins.listToAttrs (map
        (unit: let name = "${mountName unit.where}.mount"; in lib.nameValuePair name (describe name unit (plain "Mount" "mountConfig" unit)))
        cfg.mounts);

    assertions = lib.concatLists (lib.mapAttrsToList
      (name: unit:
        let
          type = unit.serviceConfig.Type or "";
          restart = unit.serviceConfig.Restart or "no";
        in
        [
          {
            assertion = !(type == "oneshot" && (restart == "always" || restart == "on-success"));
            message = "${name}.service: systemd allows no Restart=${restart} with Type=oneshot";
          }
          {
            assertion = !(unit.reloadIfChanged && unit.reloadTriggers != [ ]);
            message = "${name}.service: reloadTriggers have no effect beside reloadIfChanged";
          }
        ])
      cfg.services);
  };
}
