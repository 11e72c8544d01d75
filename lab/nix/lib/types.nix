# The types of options: how a definition is checked and how several are merged.
{ lib }:
let
  inherit (lib.options) showOption showDefs mergeEqualOption mergeOneOption mergeDefaultOption getValues getFiles;
  inherit (lib.modules) mergeDefinitions evalModules;

  mkOptionType =
    { name
    , description ? name
    , check ? (_: true)
    , merge ? mergeDefaultOption
    , emptyValue ? { }
    , nestedTypes ? { }
    , functor ? { inherit name; }
    , typeMerge ? null
    , getSubModules ? null
    , ...
    }@given:
    let
      self = {
        _type = "option-type";
        inherit name description check merge emptyValue nestedTypes getSubModules;
        functor = { wrapped = null; payload = null; } // functor;
        typeMerge = if typeMerge != null then typeMerge else other: if other.name == name then self else null;
      };
    in
    self // builtins.removeAttrs given [ "typeMerge" "functor" ];

  # The type merge of a container: possible when the element types merge.
  wrapping = make: elem: name: other:
    let inner = if other.name == name then elem.typeMerge other.nestedTypes.elemType else null; in
    if inner == null then null else make inner;

  isStorePath = lib.strings.isStorePath;
in
rec {
  inherit mkOptionType;
  isType = kind: x: (x._type or null) == kind;
  isOptionType = isType "option-type";
  setType = kind: x: x // { _type = kind; };

  types = rec {
    inherit mkOptionType isType isOptionType;

    raw = mkOptionType { name = "raw"; description = "any value, defined once"; merge = mergeOneOption; };
    unspecified = mkOptionType { name = "unspecified"; description = "any value"; };
    anything = mkOptionType {
      name = "anything";
      check = _: true;
      merge = path: defs:
        let
          kind = value: if lib.isStringLike value then "stringLike" else builtins.typeOf value;
          kinds = lib.unique (map (def: kind def.value) defs);
          byKind = {
            set = (lazyAttrsOf anything).merge;
            list = if builtins.length defs > 1 then mergeEqualOption else (listOf anything).merge;
            stringLike = mergeEqualOption;
            lambda = path: defs: argument: anything.merge (path ++ [ "<function body>" ])
              (map (def: { inherit (def) file; value = def.value argument; }) defs);
          };
        in
        if builtins.length kinds > 1
        then throw "The option `${showOption path}' has definitions of different kinds in ${lib.options.showFiles (getFiles defs)}"
        else (byKind.${builtins.head kinds} or mergeEqualOption) path defs;
    };

    bool = mkOptionType { name = "bool"; description = "boolean"; check = builtins.isBool; merge = mergeEqualOption; };
    boolByOr = mkOptionType { name = "boolByOr"; description = "boolean, true if one definition is"; check = builtins.isBool; merge = _: defs: builtins.any lib.id (getValues defs); };
    int = mkOptionType { name = "int"; description = "signed integer"; check = builtins.isInt; merge = mergeEqualOption; };
    float = mkOptionType { name = "float"; description = "floating point number"; check = builtins.isFloat; merge = mergeEqualOption; };
    number = either int float;
    ints =
      let
        between = lowest: highest: addCheck int (x: x >= lowest && x <= highest) // {
          name = "intBetween";
          description = "integer between ${toString lowest} and ${toString highest} (both inclusive)";
        };
        bits = n: top: between 0 top // {
          name = "unsignedInt${toString n}";
          description = "${toString n} bit unsigned integer; between 0 and ${toString top} (both inclusive)";
        };
      in
      {
        inherit between;
        positive = addCheck int (x: x > 0) // { name = "positiveInt"; description = "positive integer, meaning >0"; };
        unsigned = addCheck int (x: x >= 0) // { name = "unsignedInt"; description = "unsigned integer, meaning >=0"; };
        u8 = bits 8 255;
        u16 = bits 16 65535;
        u32 = bits 32 4294967295;
      };
    port = ints.u16;

    str = mkOptionType { name = "str"; description = "string"; check = builtins.isString; merge = mergeEqualOption; };
    nonEmptyStr = mkOptionType {
      name = "nonEmptyStr";
      description = "non-empty string";
      check = x: str.check x && builtins.match "[ \t\n]*" x == null;
      merge = mergeEqualOption;
    };
    singleLineStr = mkOptionType {
      name = "singleLineStr";
      description = "string of one line";
      check = x: str.check x && builtins.match "[^\n\r]*\n?" x != null;
      merge = path: defs: lib.removeSuffix "\n" (mergeEqualOption path defs);
    };
    strMatching = pattern: mkOptionType {
      name = "strMatching ${builtins.toJSON pattern}";
      description = "string matching the pattern ${pattern}";
      check = x: str.check x && builtins.match pattern x != null;
      merge = mergeEqualOption;
    };
    passwdEntry = inner: addCheck inner (x: !(lib.hasInfix ":" x || lib.hasInfix "\n" x)) // {
      name = "passwdEntry ${inner.name}";
      description = "${inner.description}, not containing newlines or colons";
    };
    separatedString = separator: mkOptionType {
      name = "separatedString";
      description = if separator == "" then "Concatenated string" else "strings, joined by ${builtins.toJSON separator}";
      check = builtins.isString;
      merge = _: defs: lib.concatStringsSep separator (getValues defs);
    };
    lines = separatedString "\n" // { name = "lines"; };
    commas = separatedString "," // { name = "commas"; };
    envVar = separatedString ":" // { name = "envVar"; };
    path = mkOptionType {
      name = "path";
      description = "absolute path";
      check = x: lib.isStringLike x && builtins.substring 0 1 (toString x) == "/";
      merge = mergeEqualOption;
    };
    pathInStore = mkOptionType {
      name = "pathInStore";
      description = "path in the Nix store";
      check = x: lib.isStringLike x && lib.hasPrefix "${builtins.storeDir}/" (toString x);
      merge = mergeEqualOption;
    };
    package = mkOptionType {
      name = "package";
      check = x: lib.isDerivation x || isStorePath x;
      merge = path: defs:
        let value = mergeOneOption path defs; in
        if builtins.isPath value || (builtins.isString value && !builtins.hasContext value)
        then lib.meta.toDerivation value else value;
    };
    shellPackage = addCheck package (x: x ? shellPath);
    optionType = mkOptionType { name = "optionType"; check = isOptionType; merge = mergeOneOption; };
    attrs = mkOptionType {
      name = "attrs";
      description = "attribute set";
      check = builtins.isAttrs;
      merge = _: defs: builtins.foldl' (a: def: a // def.value) { } defs;
      emptyValue.value = { };
    };
    functionTo = elem: mkOptionType {
      name = "functionTo";
      description = "function that evaluates to a(n) ${elem.description}";
      check = lib.isFunctionLike;
      merge = path: defs: argument:
        (mergeDefinitions (path ++ [ "<function body>" ]) elem
          (map (def: { inherit (def) file; value = def.value argument; }) defs)).value;
      nestedTypes.elemType = elem;
      typeMerge = wrapping functionTo elem "functionTo";
    };

    listOf = elem: mkOptionType {
      name = "listOf";
      description = "list of ${elem.description}";
      check = builtins.isList;
      merge = path: defs:
        map (entry: entry.value) (builtins.filter (entry: entry ? value)
          (builtins.concatLists (lib.imap1
            (n: def: lib.imap1
              (m: value: (mergeDefinitions (path ++ [ "[definition ${toString n}-entry ${toString m}]" ]) elem [{ inherit (def) file; inherit value; }]).optional)
              def.value)
            defs)));
      emptyValue.value = [ ];
      nestedTypes.elemType = elem;
      typeMerge = wrapping listOf elem "listOf";
    };
    nonEmptyListOf = elem: addCheck (listOf elem) (xs: xs != [ ]) // { name = "nonEmptyListOf"; description = "non-empty list of ${elem.description}"; };

    attrsOf = elem: mkOptionType {
      name = "attrsOf";
      description = "attribute set of ${elem.description}";
      check = builtins.isAttrs;
      merge = path: defs:
        builtins.mapAttrs (_: entry: entry.value)
          (lib.filterAttrs (_: entry: entry ? value)
            (builtins.zipAttrsWith (name: values: (mergeDefinitions (path ++ [ name ]) elem values).optional)
              (map (def: builtins.mapAttrs (_: value: { inherit (def) file; inherit value; }) def.value) defs)));
      emptyValue.value = { };
      nestedTypes.elemType = elem;
      typeMerge = wrapping attrsOf elem "attrsOf";
    };
    lazyAttrsOf = elem: mkOptionType {
      name = "lazyAttrsOf";
      description = "lazy attribute set of ${elem.description}";
      check = builtins.isAttrs;
      merge = path: defs:
        builtins.zipAttrsWith
          (name: values:
            let merged = mergeDefinitions (path ++ [ name ]) elem values; in
            merged.optional.value or elem.emptyValue.value or merged.value)
          (map (def: builtins.mapAttrs (_: value: { inherit (def) file; inherit value; }) def.value) defs);
      emptyValue.value = { };
      nestedTypes.elemType = elem;
      typeMerge = wrapping lazyAttrsOf elem "lazyAttrsOf";
    };

    uniq = unique { message = ""; };
    unique = { message }: inner: inner // {
      name = "unique";
      merge = path: defs:
        if builtins.length defs == 1 then inner.merge path defs
        else throw "The option `${showOption path}' may be defined only once. ${message}${showDefs defs}";
    };
    nullOr = inner: mkOptionType {
      name = "nullOr";
      description = "null or ${inner.description}";
      check = x: x == null || inner.check x;
      merge = path: defs:
        let nulls = lib.count (def: def.value == null) defs; in
        if nulls == builtins.length defs then null
        else if nulls != 0
        then throw "The option `${showOption path}' is both null and not null, in ${lib.options.showFiles (getFiles defs)}."
        else inner.merge path defs;
      emptyValue.value = null;
      nestedTypes.elemType = inner;
      typeMerge = wrapping nullOr inner "nullOr";
    };
    either = a: b: mkOptionType {
      name = "either";
      description = "${a.description} or ${b.description}";
      check = x: a.check x || b.check x;
      merge = path: defs:
        let values = getValues defs; in
        if builtins.all a.check values then a.merge path defs
        else if builtins.all b.check values then b.merge path defs
        else mergeOneOption path defs;
      nestedTypes = { left = a; right = b; };
      typeMerge = _: null;
    };
    oneOf = choices: builtins.foldl' either (builtins.head choices) (builtins.tail choices);
    enum = values: mkOptionType {
      name = "enum";
      description = "one of ${lib.concatMapStringsSep ", " builtins.toJSON values}";
      check = x: builtins.elem x values;
      merge = mergeEqualOption;
      functor = { name = "enum"; payload = { inherit values; }; };
      typeMerge = other: if other.name == "enum" then enum (lib.unique (values ++ other.functor.payload.values)) else null;
    };
    coercedTo = coerced: convert: final: mkOptionType {
      name = "coercedTo";
      description = "${final.description} or ${coerced.description} convertible to it";
      check = x: (coerced.check x && final.check (convert x)) || final.check x;
      merge = path: defs:
        final.merge path (map (def: if coerced.check def.value then def // { value = convert def.value; } else def) defs);
      inherit (final) emptyValue;
      typeMerge = _: null;
    };
    addCheck = inner: check: inner // { check = x: inner.check x && check x; };

    submodule = modules: submoduleWith { shorthandOnlyDefinesConfig = true; modules = lib.toList modules; };
    submoduleWith = { modules, specialArgs ? { }, shorthandOnlyDefinesConfig ? false, description ? null, class ? null }:
      let
        allOf = map (def:
          if builtins.isAttrs def.value && shorthandOnlyDefinesConfig
          then { _file = toString def.file; config = def.value; }
          else lib.modules.setDefaultModuleLocation def.file def.value);
        evaluate = path: extra: evalModules {
          inherit class specialArgs;
          prefix = path;
          modules = [{ _module.args.name = lib.last path; }] ++ modules ++ extra;
        };
      in
      mkOptionType {
        name = "submodule";
        description = if description != null then description else "submodule";
        check = x: builtins.isAttrs x || lib.isFunctionLike x || path.check x;
        merge = path: defs: (evaluate path (allOf defs)).config;
        emptyValue.value = { };
        getSubModules = modules;
        functor = { name = "submodule"; payload = { inherit modules; }; };
        typeMerge = other:
          if other.name == "submodule"
          then submoduleWith { inherit specialArgs shorthandOnlyDefinesConfig class; modules = modules ++ other.functor.payload.modules; }
          else null;
      };
    deferredModule = mkOptionType {
      name = "deferredModule";
      description = "module";
      check = x: builtins.isAttrs x || lib.isFunctionLike x || path.check x;
      merge = _: defs: { imports = map (def: lib.modules.setDefaultModuleLocation def.file def.value) defs; };
    };
  };
}
