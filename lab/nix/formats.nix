# pkgs.formats: types and generators of configuration files.
{ lib, pkgs }:
let
  inherit (lib) types;

  tree = name: scalars:
    let value = types.nullOr (types.oneOf (scalars ++ [ (types.attrsOf value) (types.listOf value) ])) // { description = "${name} value"; };
    in value;

  json = { }: {
    type = tree "JSON" [ types.bool types.int types.float types.str types.path ];
    generate = name: value: pkgs.writeText name (builtins.toJSON value);
  };

  # TOML: at each level the plain values first, then the tables, so that no value falls into the table before it.
  tomlKey = key: if builtins.match "[A-Za-z0-9_-]+" key != null then key else builtins.toJSON key;
  tomlValue = value:
    if builtins.isAttrs value && !(lib.isDerivation value)
    then "{ ${lib.concatStringsSep ", " (lib.mapAttrsToList (key: v: "${tomlKey key} = ${tomlValue v}") value)} }"
    else if builtins.isList value then "[${lib.concatMapStringsSep ", " tomlValue value}]"
    else if builtins.isBool value || builtins.isInt value || builtins.isFloat value then builtins.toJSON value
    else builtins.toJSON "${value}";
  tomlTable = path: set:
    let
      isTable = value: builtins.isAttrs value && !(lib.isDerivation value);
      present = lib.filterAttrs (_: value: value != null) set;
      plain = lib.filterAttrs (_: value: !isTable value) present;
      tables = lib.filterAttrs (_: isTable) present;
      heading = lib.optionalString (path != [ ] && (plain != { } || tables == { })) "[${lib.concatMapStringsSep "." tomlKey path}]\n";
    in
    heading
    + lib.concatStrings (lib.mapAttrsToList (key: value: "${tomlKey key} = ${tomlValue value}\n") plain)
    + lib.concatStrings (lib.mapAttrsToList (key: tomlTable (path ++ [ key ])) tables);

  lines = generate: type: { inherit type; generate = name: value: pkgs.writeText name (generate value); };
  scalar = types.nullOr (types.oneOf [ types.bool types.int types.float types.str ]);
in
{
  inherit json;
  # JSON is YAML; the same value, more quotes.
  yaml = json;
  toml = { }: lines (tomlTable [ ]) (tree "TOML" [ types.bool types.int types.float types.str types.path ]);
  ini = options: lines (lib.generators.toINI options) (types.attrsOf (types.attrsOf (types.either scalar (types.listOf scalar))));
  keyValue = options: lines (lib.generators.toKeyValue options) (types.attrsOf (types.either scalar (types.listOf scalar)));
}
