# Functions on strings.
{ lib }:
rec {
  inherit (builtins) stringLength substring replaceStrings concatStringsSep toJSON fromJSON match split isString isPath
    hasContext unsafeDiscardStringContext baseNameOf;

  concatStrings = concatStringsSep "";
  concatMapStrings = f: xs: concatStrings (map f xs);
  concatMapStringsSep = separator: f: xs: concatStringsSep separator (map f xs);
  concatImapStrings = f: xs: concatStrings (lib.imap1 f xs);
  concatImapStringsSep = separator: f: xs: concatStringsSep separator (lib.imap1 f xs);
  concatMapAttrsStringSep = separator: f: set: concatStringsSep separator (lib.mapAttrsToList f set);
  concatLines = concatMapStrings (line: line + "\n");
  intersperse = separator: xs:
    if xs == [ ] then [ ] else lib.drop 1 (builtins.concatMap (x: [ separator x ]) xs);
  optionalString = condition: text: if condition then text else "";
  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
  hasSuffix = suffix: text:
    let
      own = stringLength text;
      wanted = stringLength suffix;
    in
    own >= wanted && substring (own - wanted) wanted text == suffix;
  hasInfix = infix: text: infix == "" || builtins.length (splitString infix text) > 1;
  removePrefix = prefix: text: if hasPrefix prefix text then substring (stringLength prefix) (-1) text else text;
  removeSuffix = suffix: text:
    if hasSuffix suffix text then substring 0 (stringLength text - stringLength suffix) text else text;
  stringToCharacters = text: builtins.genList (i: substring i 1 text) (stringLength text);
  escape = characters: replaceStrings characters (map (c: "\\${c}") characters);
  escapeRegex = escape (stringToCharacters "\\[{()^$?*+|.");
  splitString = separator: text:
    builtins.filter isString (split (escapeRegex (toString separator)) (toString text));
  join = concatStringsSep;
  toLower = replaceStrings (stringToCharacters "ABCDEFGHIJKLMNOPQRSTUVWXYZ") (stringToCharacters "abcdefghijklmnopqrstuvwxyz");
  toUpper = replaceStrings (stringToCharacters "abcdefghijklmnopqrstuvwxyz") (stringToCharacters "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
  escapeShellArg = value:
    let text = toString value; in
    if match "[[:alnum:],._+:@%/-]+" text != null then text else "'${replaceStrings [ "'" ] [ "'\\''" ] text}'";
  escapeShellArgs = concatMapStringsSep " " escapeShellArg;
  escapeNixString = text: escape [ "$" ] (toJSON text);
  escapeNixIdentifier = text: if match "[a-zA-Z_][a-zA-Z0-9_'-]*" text != null then text else escapeNixString text;
  escapeXML = replaceStrings [ "\"" "'" "<" ">" "&" ] [ "&quot;" "&apos;" "&lt;" "&gt;" "&amp;" ];
  toInt = text:
    let matched = match "[[:space:]]*(-?[0-9]+)[[:space:]]*" text; in
    if matched == null || match "-?0[0-9]+" (builtins.head matched) != null
    then throw "toInt: could not convert ${toJSON text} to an integer"
    else fromJSON (builtins.head matched);
  toIntBase10 = text:
    let matched = match "[[:space:]]*0*(-?[0-9]+)[[:space:]]*" text; in
    if matched == null then throw "toIntBase10: could not convert ${toJSON text} to an integer" else fromJSON (builtins.head matched);
  fixedWidthString = width: filler: text:
    if stringLength text >= width then text else fixedWidthString width filler (filler + text);
  fixedWidthNumber = width: number: fixedWidthString width "0" (toString number);
  trim = text: builtins.head (match "[ \t\r\n]*((.*[^ \t\r\n])?)[ \t\r\n]*" text);
  isStringLike = x: isString x || isPath x || x ? outPath || x ? __toString;
  isStorePath = x: isStringLike x && dirOf (toString x) == builtins.storeDir;
  isConvertibleWithToString = x:
    isStringLike x || x == null || builtins.isInt x || builtins.isFloat x || builtins.isBool x
    || (builtins.isList x && builtins.all isConvertibleWithToString x);
  makeSearchPath = sub: packages: concatStringsSep ":" (map (p: "${p}/${sub}") (builtins.filter (p: p != null) packages));
  makeSearchPathOutput = output: sub: packages: makeSearchPath sub (map (lib.getOutput output) packages);
  makeBinPath = makeSearchPathOutput "bin" "bin";
  fileContents = file: removeSuffix "\n" (builtins.readFile file);
  nameFromURL = url: separator: builtins.head (splitString separator (lib.last (splitString "/" url)));
  sanitizeDerivationName = text:
    let
      cleaned = concatMapStrings (part: if builtins.isList part then "-" else part)
        (split "[^[:alnum:]+._?=-]+" (unsafeDiscardStringContext text));
      named = builtins.head (match "\\.*(.*)" cleaned);
    in
    if named == "" then "unknown" else named;
  toShellVar = name: value: "${name}=${escapeShellArg value}";
  isValidPosixName = name: match "[a-zA-Z_][a-zA-Z0-9_]*" name != null;
  dirOf = builtins.dirOf;
}
