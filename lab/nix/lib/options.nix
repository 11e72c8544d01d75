# Declaring options, naming them in messages, and the ways of merging definitions that need no type.
{ lib }:
rec {
  mkOption = declaration: { _type = "option"; } // declaration;

  mkEnableOption = what: mkOption {
    type = lib.types.bool;
    default = false;
    example = true;
    description = "Whether to enable ${what}.";
  };

  mkPackageOption = pkgs: name: { default ? name, nullable ? false, ... }:
    let
      path = if builtins.isList default then default else [ default ];
      declared = if nullable then lib.types.nullOr lib.types.package else lib.types.package;
    in
    mkOption ({
      type = declared;
      description = "The package to use for ${if builtins.isList name then lib.last name else name}.";
    } // (if default == null then { default = null; } else { default = lib.getAttrFromPath path pkgs; }));

  isOption = x: builtins.isAttrs x && (x._type or null) == "option";

  literalExpression = text: { _type = "literalExpression"; inherit text; };
  literalMD = literalExpression;

  showOption = path:
    let
      part = name:
        if name == "*" || lib.hasPrefix "<" name || builtins.match "[a-zA-Z_][a-zA-Z0-9_'-]*" name != null
        then name
        else builtins.toJSON name;
    in
    lib.concatMapStringsSep "." part path;

  showFiles = files: lib.concatMapStringsSep " and " (file: "`${toString file}'") files;

  # One line per definition: its file and, where it can be shown without evaluating much, its value.
  showDefs = defs:
    let
      shown = value:
        let tried = builtins.tryEval (brief value); in
        if tried.success then tried.value else "<a value that does not evaluate>";
      brief = value:
        if value == null || builtins.isBool value || builtins.isInt value || builtins.isString value then builtins.toJSON value
        else if builtins.isPath value then toString value
        else if builtins.isList value then "[ ${lib.concatMapStringsSep " " brief (lib.take 5 value)}${if builtins.length value > 5 then " …" else ""} ]"
        else if builtins.isAttrs value then "{ ${lib.concatStringsSep " " (lib.take 5 (builtins.attrNames value))} … }"
        else "<${builtins.typeOf value}>";
    in
    lib.concatMapStrings (def: "\n- In `${toString def.file}': ${shown def.value}") defs;

  getValues = map (def: def.value);
  getFiles = map (def: def.file);

  mergeDefaultOption = path: defs:
    let values = getValues defs; in
    if builtins.length defs == 1 then builtins.head values
    else if builtins.all builtins.isList values then builtins.concatLists values
    else if builtins.all builtins.isAttrs values then builtins.foldl' (a: b: a // b) { } values
    else throw "The definitions of `${showOption path}' can't be merged:${showDefs defs}";

  mergeOneOption = path: defs:
    if builtins.length defs == 1 then (builtins.head defs).value
    else throw "The option `${showOption path}' may be defined only once:${showDefs defs}";

  mergeEqualOption = path: defs:
    let
      first = builtins.head defs;
      different = builtins.filter (def: def.value != first.value) defs;
    in
    if builtins.length defs == 1 || different == [ ] then first.value
    else throw "The option `${showOption path}' has conflicting definition values (mkForce and mkDefault choose between them):${showDefs [ first (builtins.head different) ]}";
}
