# Expressions about lib: `same` must come to the same value with the own subset and with nixpkgs' lib, `wrong` must
# fail with both.
{ lib }:
let
  inherit (lib) evalModules mkAfter mkBefore mkDefault mkForce mkIf mkMerge mkOption mkOrder mkOverride types;

  # One option and its definitions, each in a module of its own.
  define = option: definitions: (evalModules { modules = [{ options.v = option; }] ++ map (v: { inherit v; }) definitions; }).config.v;
  of = type: define (mkOption { inherit type; });
  evaluate = modules: (evalModules { inherit modules; }).config;
  number = mkOption { type = types.int; };
  numbers = mkOption { type = types.listOf types.int; };
  named = types.attrsOf (types.submodule { options.a = number; });
in
{
  same = {
    concatMapStringsSep = lib.concatMapStringsSep "," toString [ 1 2 3 ];
    splitString = [ (lib.splitString "." "a.b..c.") (lib.splitString "::" "fd88::1") ];
    affixes = [
      (lib.hasPrefix "a" "abc")
      (lib.hasSuffix "bc" "abc")
      (lib.hasInfix "b" "abc")
      (lib.hasInfix "x" "")
      (lib.hasInfix "" "")
      (lib.hasInfix "a.c" "abc")
      (lib.removePrefix "a" "aab")
      (lib.removeSuffix "b" "abb")
      (lib.removeSuffix "x" "abb")
    ];
    escapeShellArg = map lib.escapeShellArg [ "plain" "" "a b" "it's" "$x" "a=b" "--x=y" "/a/b:c@d%+,_.-" 5 "a\nb" ];
    escapeShellArgs = lib.escapeShellArgs [ "a" "b c" ];
    escapeNixIdentifier = map lib.strings.escapeNixIdentifier [ "a" "a-b" "1a" "a.b" "a'" "$" ];
    imap = [ (lib.imap0 (i: x: i + x) [ 10 20 ]) (lib.imap1 (i: x: i * x) [ 10 20 ]) ];
    unique = lib.unique [ 1 2 1 3 2 ];
    parts = [
      (lib.range 2 5)
      (lib.range 3 2)
      (lib.take 2 [ 1 2 3 ])
      (lib.take 9 [ 1 ])
      (lib.drop 2 [ 1 2 3 ])
      (lib.drop 5 [ 1 ])
      (lib.sublist 1 2 [ 1 2 3 4 ])
      (lib.last [ 1 2 ])
      (lib.init [ 1 2 ])
      (lib.reverseList [ 1 2 3 ])
    ];
    flatten = lib.flatten [ 1 [ 2 [ 3 [ ] ] ] ];
    foldr = lib.foldr (a: b: a - b) 0 [ 1 2 3 ];
    zip = [ (lib.zipListsWith (a: b: a + b) [ 1 2 3 ] [ 4 5 ]) (lib.zipLists [ 1 2 ] [ 3 4 ]) ];
    findFirst = [ (lib.findFirst (x: x > 1) 0 [ 1 2 3 ]) (lib.findFirst (x: x > 9) 0 [ 1 ]) ];
    optional = [ (lib.optional true 1) (lib.optionals false [ 1 ]) (lib.optionalAttrs true { a = 1; }) (lib.optionalString false "x") ];
    filterAttrs = lib.filterAttrs (_: v: v > 1) { a = 1; b = 2; };
    mapAttrs' = lib.mapAttrs' (n: v: lib.nameValuePair "x${n}" (v + 1)) { a = 1; b = 2; };
    mapAttrsToList = lib.mapAttrsToList (n: v: [ n v ]) { b = 1; a = 2; };
    genAttrs = lib.genAttrs [ "a" "b" ] (n: n + n);
    recursiveUpdate = lib.recursiveUpdate { a = { b = 1; c = 2; }; d = 1; } { a.b = 3; d.e = 1; };
    paths = [ (lib.attrByPath [ "a" "b" ] 0 { a.b = 1; }) (lib.attrByPath [ "a" "c" ] 0 { a.b = 1; }) (lib.setAttrByPath [ "a" "b" ] 1) ];
    mapAttrsRecursive = lib.mapAttrsRecursive (p: v: lib.concatStringsSep "-" (p ++ [ v ])) { a.b = "x"; c = "y"; };
    concatMapAttrs = lib.concatMapAttrs (n: v: { ${n + n} = v; }) { a = 1; b = 2; };
    cartesianProduct = lib.cartesianProduct { a = [ 1 2 ]; b = [ 3 4 ]; };
    foldAttrs = lib.foldAttrs (x: all: [ x ] ++ all) [ ] [{ a = 1; } { a = 2; b = 3; }];
    collect = lib.collect builtins.isInt { a = 1; b.c = 2; d = "x"; };
    attrsToList = lib.attrsToList { a = 1; };
    sorting = [ (lib.sort (a: b: a > b) [ 3 1 2 ]) (lib.sortOn (x: -x) [ 3 1 2 ]) (lib.partition (x: x > 2) [ 1 2 3 4 ]) ];
    sets = [ (lib.intersectLists [ 1 2 3 ] [ 2 3 4 ]) (lib.subtractLists [ 2 ] [ 1 2 3 ]) (lib.remove 1 [ 1 2 1 ]) ];
    versions = [ (lib.versionOlder "1.9" "1.10") (lib.versionAtLeast "25.11" "25.05") (lib.versions.majorMinor "1.34.1") ];
    numbers = [ (lib.toInt " 12 ") (lib.toInt "-3") (lib.toIntBase10 "007") (lib.fixedWidthNumber 5 15) (lib.mod 7 3) (lib.min 1 2) (lib.max 1 2) ];
    texts = [ (lib.toUpper "aé") (lib.trim " a b \n") (lib.boolToString true) (lib.stringToCharacters "abc") (lib.concatLines [ "a" "b" ]) ];
    sanitizeDerivationName = lib.strings.sanitizeDerivationName "..a b@c/d";
    makeBinPath = lib.makeBinPath [ "/a" "/b" ];
    lists = [ (lib.toList 1) (lib.toList [ 1 ]) (lib.count (x: x > 1) [ 1 2 ]) (lib.intersperse 0 [ 1 2 ]) (lib.pipe 1 [ (x: x + 1) toString ]) ];
    generators = [ (lib.generators.toINI { } { s = { a = 1; b = true; }; t.x = "y"; }) (lib.generators.toKeyValue { } { a = 1; b = "c"; }) ];
    showOption = lib.showOption [ "a" "b.c" "*" "<name>" ];

    order = of (types.listOf types.int) [ [ 1 ] [ 2 ] (mkBefore [ 3 ]) (mkAfter [ 4 ]) (mkOrder 1 [ 5 ]) ];
    defaultAgainstMerge = of (types.listOf types.int) [ (mkDefault [ 1 ]) (mkMerge [ [ 2 ] (mkIf false [ 3 ]) (mkIf true [ 4 ]) ]) ];
    defaultValue = define (mkOption { type = types.listOf types.int; default = [ 9 ]; }) [ ];
    defaultReplaced = define (mkOption { type = types.listOf types.int; default = [ 9 ]; }) [ [ 1 ] ];
    priorities = [ (of types.int [ (mkDefault 1) 2 (mkForce 3) ]) (of types.int [ (mkOverride 10 1) (mkForce 3) ]) ];
    lines = of types.lines [ "a" (mkBefore "b") (mkForce (mkAfter "c")) (mkForce "d") ];
    separated = of (types.separatedString ":") [ "a" "b" ];
    attrsOf = of (types.attrsOf types.int) [ { a = 1; } { b = mkDefault 2; } { b = 3; c = mkIf false 4; } ];
    attrsOfLists = of (types.attrsOf (types.listOf types.str)) [ { a = [ "x" ]; } { a = mkBefore [ "y" ]; } (mkIf true { a = [ "z" ]; }) ];
    nested = of (types.attrsOf (types.attrsOf (types.nullOr types.int))) [ { a.b = null; } { a.c = 1; } ];
    nullOr = define (mkOption { type = types.nullOr types.str; default = null; }) [ ];
    either = [ (of (types.either types.int types.str) [ "x" ]) (of (types.oneOf [ types.int (types.listOf types.int) ]) [ [ 1 ] [ 2 ] ]) ];
    simple = [
      (of (types.enum [ "a" "b" ]) [ "a" "a" ])
      (of types.bool [ true (mkDefault false) ])
      (of types.port [ 80 ])
      (of (types.ints.between 1 5) [ 5 ])
      (of types.singleLineStr [ "a\n" ])
      (of types.path [ "/etc" ])
      (of types.unspecified [ [ 1 ] [ 2 ] ])
    ];
    anything = of types.anything [ { a = 1; b.c = [ 1 ]; } { b.d = "x"; } ];
    attrs = of types.attrs [ { a = 1; } { b = 2; } ];
    coercedTo = of (types.coercedTo types.int toString types.str) [ 1 ];
    apply = define (mkOption { type = types.str; default = "x"; apply = v: "<${v}>"; }) [ ];
    functionTo = of (types.functionTo (types.listOf types.int)) [ (x: [ x ]) (x: [ (x + 1) ]) ] 5;
    lazyAttrsOf = of (types.lazyAttrsOf types.int) [ { a = 1; } { b = 2; } ];
    submodules = of
      (types.attrsOf (types.submodule ({ name, config, ... }: {
        options.n = mkOption { default = name; };
        options.l = mkOption { type = types.lines; default = ""; };
        config.l = mkAfter "last ${config.n}";
      })))
      [ { a.l = "x"; b.n = "B"; } { a = { config, ... }: { l = mkBefore "first ${config.n}"; }; } ];
    listOfSubmodules = of (types.listOf (types.submodule { options.a = mkOption { type = types.int; default = 1; }; })) [ [{ } { a = 2; }] ];
    freeformSubmodule = of (types.submodule { freeformType = types.attrsOf types.int; options.a = number; }) [ { a = 1; b = 2; } { c = 3; } ];
    nullOrSubmodule = of (types.nullOr (types.submodule { options.a = mkOption { default = 1; }; })) [ { } ];
    dependent = (evaluate [
      { options.a.b = mkOption { default = 1; }; options.a.c = number; }
      ({ config, ... }: { a.c = config.a.b + 1; })
    ]).a;
    arguments = (evaluate [ ({ x, ... }: { options.v = mkOption { default = x; }; }) { _module.args.x = 7; } ]).v;
    specialArgs = (evalModules { specialArgs.y = 8; modules = [ ({ y, ... }: { options.v = mkOption { default = y; }; }) ]; }).config.v;
    imports = (evaluate [
      {
        options.v = numbers;
        config.v = [ 4 ];
        imports = [{ v = [ 1 ]; imports = [{ v = [ 2 ]; }]; } { v = [ 3 ]; }];
      }
      { v = [ 5 ]; }
    ]).v;
    conditionalModules = (evaluate [
      { options.v = numbers; }
      (mkIf true { v = [ 1 ]; })
      { config = mkMerge [ { v = [ 2 ]; } (mkIf false { v = [ 3 ]; }) ]; }
    ]).v;
    onlyOnce = (evaluate [ { options.v = number; } { key = "k"; v = 1; } { key = "k"; v = 1; } ]).v;
    disabled = (evaluate [ { options.v = numbers; disabledModules = [{ key = "k"; }]; } { v = [ 2 ]; } { key = "k"; v = [ 1 ]; } ]).v;
    freeform = evaluate [ { freeformType = types.attrsOf types.int; } { a = 1; } { b = 2; } ];
    declaredTwice = (evaluate [ { options.v = number; } { options.v = mkOption { description = "again"; }; config.v = 1; } ]).v;
    extended = ((evalModules { modules = [{ options.v = numbers; config.v = [ 1 ]; }]; }).extendModules { modules = [{ v = [ 2 ]; }]; }).config.v;
    options =
      let inherit (evalModules { modules = [{ options.v = mkOption { type = types.int; default = 1; }; } { v = mkDefault 2; }]; }) options; in
      [ options.v.isDefined options.v.highestPrio options.v.value options.v.loc ];
  };

  wrong = {
    type = of types.int [ "x" ];
    conflict = of types.int [ 1 2 ];
    missing = of types.int [ ];
    unknown = evaluate [ { options.v = number; } { w = 1; } ];
    unknownUnderFalse = evaluate [ { options.v = number; } { w = mkIf false 1; } ];
    enum = of (types.enum [ "a" ]) [ "c" ];
    unknownInSubmodule = of named [ { x.b = 1; } ];
    missingInSubmodule = of named [ { x = { }; } ];
    entry = of (types.listOf types.int) [ [ 1 "x" ] ];
    halfNull = of (types.nullOr types.int) [ null 1 ];
    readOnly = define (mkOption { type = types.int; readOnly = true; default = 1; }) [ 2 ];
    declaredTwice = evaluate [ { options.v = number; } { options.v = mkOption { type = types.str; }; config.v = 1; } ];
    mixed = evaluate [ { options = { }; v = 1; } ];
  };
}
