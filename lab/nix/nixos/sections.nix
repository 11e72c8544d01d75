# Sections of systemd's own files: KEY=VALUE, a list gives the key several times, an empty set no lines.
{ lib }:
rec {
  value = x: if builtins.isBool x then lib.boolToString x else toString x;
  lines = set: lib.concatStrings (lib.mapAttrsToList
    (key: given: lib.concatMapStrings (x: "${key}=${value x}\n") (lib.toList given))
    set);
  section = name: set: "[${name}]\n${lines set}";
  sectionIfAny = name: set: lib.optionalString (set != { }) (section name set + "\n");
}
