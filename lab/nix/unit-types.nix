# The options of a unit (NixOS 25.11: nixos/lib/systemd-unit-options.nix).
{ lib }:
let
  inherit (lib) mkOption types;

  # Values of one key: lists are put together, everything else must be given once.
  optionType = lib.mkOptionType {
    name = "systemd option";
    merge = path: defs:
      let lists = builtins.filter (def: builtins.isList def.value) defs; in
      if lists == [ ] then lib.mergeEqualOption path defs
      else if builtins.length lists == builtins.length defs then builtins.concatMap (def: def.value) defs
      else throw "`${lib.showOption path}' is a list in some of its definitions and a single value in others";
  };
  unitName = types.strMatching "[a-zA-Z0-9@%:_.\\-]+[.](service|socket|device|mount|automount|swap|target|path|timer|scope|slice)";
  names = mkOption { type = types.listOf unitName; default = [ ]; };
  script = mkOption { type = types.lines; default = ""; };
  flag = default: mkOption { type = types.bool; inherit default; };
  section = type: mkOption { inherit type; default = { }; };

  oneOf = key: allowed: value:
    if !(value ? ${key}) || builtins.elem (plain value.${key}) allowed then true
    else builtins.trace "${key}=${toString (plain value.${key})} is nothing that systemd knows" false;
  plain = value: if (value._type or null) == "override" || (value._type or null) == "if" then value.content else value;
in
{
  inherit optionType unitName;

  common = { config, options, ... }: {
    options = lib.genAttrs
      [ "requiredBy" "wantedBy" "upheldBy" "aliases" "requires" "wants" "upholds" "after" "before" "bindsTo" "partOf" "conflicts" "requisite" "onFailure" "onSuccess" ]
      (_: names) // {
      enable = flag true;
      overrideStrategy = mkOption { type = types.enum [ "asDropinIfExists" "asDropin" ]; default = "asDropinIfExists"; };
      description = mkOption { type = types.singleLineStr; default = ""; };
      documentation = mkOption { type = types.listOf types.str; default = [ ]; };
      unitConfig = section (types.attrsOf optionType);
      startLimitBurst = mkOption { type = types.int; };
      startLimitIntervalSec = mkOption { type = types.int; };
      restartTriggers = mkOption { type = types.listOf types.unspecified; default = [ ]; };
      reloadTriggers = mkOption { type = types.listOf optionType; default = [ ]; };
    };
    config.unitConfig =
      let
        relations = {
          Requires = "requires"; Wants = "wants"; Upholds = "upholds"; After = "after"; Before = "before"; BindsTo = "bindsTo";
          PartOf = "partOf"; Conflicts = "conflicts"; Requisite = "requisite"; OnFailure = "onFailure"; OnSuccess = "onSuccess";
          Documentation = "documentation";
        };
        given = lib.filterAttrs (_: option: config.${option} != [ ]) relations;
      in
      builtins.mapAttrs (_: option: toString config.${option}) given
      // lib.optionalAttrs (config.description != "") { Description = config.description; }
      // lib.optionalAttrs options.startLimitIntervalSec.isDefined { StartLimitIntervalSec = toString config.startLimitIntervalSec; }
      // lib.optionalAttrs options.startLimitBurst.isDefined { StartLimitBurst = toString config.startLimitBurst; };
  };

  service = {
    options = lib.genAttrs [ "script" "preStart" "postStart" "reload" "preStop" "postStop" ] (_: script) // {
      environment = section (types.attrsOf (types.nullOr (types.oneOf [ types.str types.path types.package ])));
      path = mkOption { type = types.listOf (types.oneOf [ types.package types.str ]); default = [ ]; };
      serviceConfig = section (types.addCheck (types.attrsOf optionType) (value:
        oneOf "Type" [ "exec" "simple" "forking" "oneshot" "dbus" "notify" "notify-reload" "idle" ] value
        && oneOf "Restart" [ "no" "on-success" "on-failure" "on-abnormal" "on-abort" "always" ] value));
      scriptArgs = mkOption { type = types.str; default = ""; };
      enableStrictShellChecks = flag false;
      restartIfChanged = flag true;
      reloadIfChanged = flag false;
      stopIfChanged = flag true;
      notSocketActivated = flag false;
      startAt = mkOption { type = types.either types.str (types.listOf types.str); default = [ ]; apply = lib.toList; };
    };
  };
}
