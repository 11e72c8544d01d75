# Values as text in the formats of configuration files.
{ lib }:
rec {
  toJSON = _: builtins.toJSON;
  toYAML = toJSON;
  mkValueStringDefault = _: value:
    if value == true then "true" else if value == false then "false" else if value == null then "null" else toString value;
  mkKeyValueDefault = { mkValueString ? mkValueStringDefault { } }: separator: key: value:
    "${lib.escape [ separator ] key}${separator}${mkValueString value}";
  toKeyValue = { mkKeyValue ? mkKeyValueDefault { } "=", listsAsDuplicateKeys ? false, indent ? "" }: set:
    lib.concatStrings (lib.mapAttrsToList
      (key: value: lib.concatMapStrings (v: "${indent}${mkKeyValue key v}\n")
        (if listsAsDuplicateKeys && builtins.isList value then value else [ value ]))
      set);
  toINI = { mkSectionName ? (name: lib.escape [ "[" "]" ] name), mkKeyValue ? mkKeyValueDefault { } "=", listsAsDuplicateKeys ? false }: sections:
    lib.concatStringsSep "\n" (lib.mapAttrsToList
      (name: set: "[${mkSectionName name}]\n${toKeyValue { inherit mkKeyValue listsAsDuplicateKeys; } set}")
      sections);
  toPretty = _: value:
    if builtins.isFunction value then "<function>"
    else if builtins.isAttrs value && lib.isDerivation value then "<derivation ${value.name or "?"}>"
    else if builtins.isAttrs value then "{ ${lib.concatStrings (lib.mapAttrsToList (n: v: "${lib.escapeNixIdentifier n} = ${toPretty { } v}; ") value)}}"
    else if builtins.isList value then "[ ${lib.concatMapStrings (v: "${toPretty { } v} ") value}]"
    else if builtins.isPath value then toString value
    else builtins.toJSON value;
}
