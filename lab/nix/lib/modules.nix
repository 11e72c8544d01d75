# The module system: modules with imports, options and definitions are evaluated together to one configuration.
# Meaning as in nixpkgs: the later of two modules in the import order comes first in merged lists, priorities
# (100 by default, the lower number wins) before order (1000 by default), conditions are evaluated lazily.
{ lib }:
let
  inherit (lib.options) isOption showOption showDefs showFiles;

  property = type: x: builtins.isAttrs x && (x._type or null) == type;

  defaultPriority = 100;
  defaultOrder = 1000;
  moduleKeys = [ "_class" "_file" "key" "disabledModules" "imports" "options" "config" "meta" "freeformType" ];
in
rec {
  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkAssert = assertion: message: content: mkIf (if assertion then true else throw "\nFailed assertion: ${message}") content;
  mkMerge = contents: { _type = "merge"; inherit contents; };
  mkOverride = priority: content: { _type = "override"; inherit priority content; };
  mkOptionDefault = mkOverride 1500;
  mkDefault = mkOverride 1000;
  mkImageMediaOverride = mkOverride 60;
  mkForce = mkOverride 50;
  mkVMOverride = mkOverride 10;
  mkOrder = priority: content: { _type = "order"; inherit priority content; };
  mkBefore = mkOrder 500;
  mkAfter = mkOrder 1500;
  inherit defaultPriority;
  defaultOverridePriority = defaultPriority;
  defaultOrderPriority = defaultOrder;

  setDefaultModuleLocation = file: module: { _file = file; imports = [ module ]; };

  evalModules = { modules, prefix ? [ ], specialArgs ? { }, class ? null }@given:
    let
      base = {
        _file = "the module system";
        key = "the module system";
        options._module = {
          args = lib.mkOption { type = lib.types.lazyAttrsOf lib.types.raw; };
          check = lib.mkOption { type = lib.types.bool; default = true; };
          freeformType = lib.mkOption { type = lib.types.nullOr lib.types.raw; default = null; };
          specialArgs = lib.mkOption { type = lib.types.raw; readOnly = true; };
        };
        config._module = {
          args = { inherit extendModules; };
          inherit specialArgs;
        };
      };

      arguments = {
        inherit lib options specialArgs config;
        _class = class;
        _prefix = prefix;
      } // specialArgs;

      collected = collectModules arguments (modules ++ [ base ]);
      merged = mergeModules prefix (lib.reverseList collected);
      options = merged.options;
      freeform = merged.config._module.freeformType;
      config =
        if freeform == null then merged.config
        else if merged.unmatched == [ ] then merged.config
        else lib.recursiveUpdate
          (freeform.merge prefix (map (def: { inherit (def) file; value = lib.setAttrByPath def.path def.value; }) merged.unmatched))
          merged.config;

      checked =
        let first = builtins.head merged.unmatched; in
        if config._module.check && freeform == null && merged.unmatched != [ ]
        then throw "The option `${showOption (prefix ++ first.path)}' does not exist. It is set here:${showDefs [ first ]}"
        else null;

      extendModules = { modules ? [ ], specialArgs ? { }, prefix ? given.prefix or [ ] }:
        evalModules (given // {
          inherit prefix;
          modules = given.modules ++ modules;
          specialArgs = given.specialArgs or { } // specialArgs;
        });
    in
    {
      _type = "configuration";
      inherit class extendModules;
      options = builtins.seq checked options;
      config = builtins.seq checked (builtins.removeAttrs config [ "_module" ]);
      _module = builtins.seq checked config._module;
    };

  # Every module once, breadth first from the given ones through their imports, without the disabled ones.
  collectModules = arguments: modules:
    let
      load = file: key: module:
        if builtins.isPath module || builtins.isString module
        then normalise (toString module) (toString module) (apply (toString module) (import module))
        else if lib.isFunctionLike module || (builtins.isAttrs module && !(module ? _type))
        then normalise file key (apply key module)
        else if property "if" module || property "override" module || property "merge" module
        then normalise file key { config = module; }
        else throw "In `${file}': a module must be a path, a function or an attribute set, not ${builtins.typeOf module}";

      apply = key: module:
        if !lib.isFunctionLike module then module
        else
          let
            wanted = if builtins.isFunction module then builtins.functionArgs module else module.__functionArgs or (builtins.functionArgs (module.__functor module));
            lookUp = name: _:
              builtins.addErrorContext "while evaluating the module argument `${name}' in ${key}"
                (arguments.${name} or arguments.config._module.args.${name});
          in
          module (arguments // builtins.mapAttrs lookUp wanted);

      normalise = file: key: module:
        let
          named = module._file or file;
          unknown = builtins.removeAttrs module moduleKeys;
          structured = module ? config || module ? options;
          free = if module ? freeformType then [{ _module.freeformType = module.freeformType; }] else [ ];
          own =
            if structured then module.config or { }
            else builtins.removeAttrs module [ "_class" "_file" "key" "disabledModules" "imports" "require" "freeformType" ];
        in
        if structured && unknown != { }
        then throw "`${key}' has an unsupported attribute `${builtins.head (builtins.attrNames unknown)}': a module with `config' or `options' keeps its definitions under `config'"
        else {
          key = toString (module.key or key);
          _file = toString named;
          disabled = map disabledKey (module.disabledModules or [ ]);
          imports = module.imports or [ ];
          options = module.options or { };
          config = if free == [ ] then own else mkMerge ([ own ] ++ free);
        };

      disabledKey = module:
        if builtins.isString module && !lib.hasPrefix "/" module then "${toString (arguments.modulesPath or "")}/${module}"
        else toString (module.key or module);

      loadAll = file: key: lib.imap1 (n: load file "${key}:anon-${toString n}");
      closure = disabled: builtins.genericClosure {
        startSet = without disabled (loadAll "<unknown-file>" "" modules);
        operator = module: without disabled (loadAll module._file module.key module.imports);
      };
      without = disabled: builtins.filter (module: !(builtins.elem module.key disabled));
      everything = closure [ ];
      disabled = builtins.concatMap (module: module.disabled) everything;
    in
    if disabled == [ ] then everything else closure disabled;

  # What a tree of definitions says at one level: conditions and priorities go down to its attributes.
  pushDown = x:
    if property "merge" x then builtins.concatMap pushDown x.contents
    else if property "if" x then map (builtins.mapAttrs (_: mkIf x.condition)) (pushDown x.content)
    else if property "override" x then map (builtins.mapAttrs (_: mkOverride x.priority)) (pushDown x.content)
    else [ x ];

  mergeModules = prefix: modules:
    mergeLevel prefix
      (map (module: { file = module._file; inherit (module) options; }) modules)
      (builtins.concatMap (module: map (config: { file = module._file; inherit config; }) (pushDown module.config)) modules);

  mergeLevel = path: declared: defined:
    let
      declarations = builtins.zipAttrsWith (_: values: values)
        (map (d: builtins.mapAttrs (_: options: { inherit (d) file; inherit options; })
          (if builtins.isAttrs d.options then d.options
          else throw "In `${d.file}': the option set `${showOption path}' is not an attribute set"))
          declared);
      definitions = builtins.zipAttrsWith (_: values: values)
        (map (d: builtins.mapAttrs (_: value: { inherit (d) file; inherit value; })
          (if builtins.isAttrs d.config then d.config
          else throw "In `${d.file}': `${showOption path}' is a group of options, but its definition is of type ${builtins.typeOf d.config}"))
          defined);
      level = builtins.mapAttrs
        (name: decls:
          let
            here = path ++ [ name ];
            defs = definitions.${name} or [ ];
            declaredOptions = builtins.filter (d: isOption d.options) decls;
            plain = builtins.filter (d: !isOption d.options) decls;
          in
          if declaredOptions == [ ] then
            mergeLevel here decls
              (builtins.concatMap (def: map (config: { inherit (def) file; inherit config; }) (pushDown def.value)) defs)
          else if plain != [ ] then
            throw "`${showOption here}' is an option in ${showFiles (lib.options.getFiles declaredOptions)} and a group of options in ${showFiles (lib.options.getFiles plain)}"
          else
            let option = evalOption here (mergeDeclarations here declaredOptions) defs; in
            { options = option; config = option.value; unmatched = [ ]; })
        declarations;
      strange = builtins.removeAttrs definitions (builtins.attrNames declarations);
    in
    {
      options = builtins.mapAttrs (_: entry: entry.options) level;
      config = builtins.mapAttrs (_: entry: entry.config) level;
      unmatched =
        builtins.concatLists (lib.mapAttrsToList (name: map (def: { path = [ name ]; inherit (def) file value; })) strange)
        ++ builtins.concatLists (lib.mapAttrsToList
          (name: entry: map (def: def // { path = [ name ] ++ def.path; }) entry.unmatched)
          level);
    };

  mergeDeclarations = path: declarations:
    { type = lib.types.unspecified; } // builtins.foldl'
      (merged: d:
        let
          typed =
            if !(d.options ? type) then { }
            else if !(merged ? type) then { inherit (d.options) type; }
          else
            let type = merged.type.typeMerge d.options.type; in
            if type == null
            then throw "The option `${showOption path}' in `${d.file}' is already declared in ${showFiles merged.files}."
            else { inherit type; };
        in
        if merged ? files && builtins.any (key: merged ? ${key} && d.options ? ${key}) [ "default" "apply" ]
        then throw "The option `${showOption path}' in `${d.file}' is already declared in ${showFiles merged.files}."
        else merged // d.options // typed // { files = merged.files or [ ] ++ [ d.file ]; })
      { }
      declarations;

  evalOption = path: declaration: defs:
    let
      standard = if declaration ? default then [{ file = builtins.head declaration.files; value = mkOptionDefault declaration.default; }] else [ ];
      all = standard ++ defs;
      result =
        if (declaration.readOnly or false) && builtins.length all > 1
        then throw "The option `${showOption path}' is read-only and has more than one definition:${showDefs (mergeDefinitions path declaration.type all).filtered}"
        else mergeDefinitions path declaration.type all;
    in
    builtins.removeAttrs declaration [ "files" ] // {
      loc = path;
      declarations = declaration.files;
      value = builtins.addErrorContext "while evaluating the option `${showOption path}':"
        (if declaration ? apply then declaration.apply result.value else result.value);
      inherit (result) isDefined highestPrio;
      definitions = map (def: def.value) result.filtered;
      files = map (def: def.file) result.filtered;
      definitionsWithLocations = result.filtered;
      __toString = _: showOption path;
    };

  discharge = x:
    if property "merge" x then builtins.concatMap discharge x.contents
    else if property "if" x then
      if builtins.isBool x.condition then (if x.condition then discharge x.content else [ ])
      else throw "the condition of an mkIf is not a boolean"
    else [ x ];

  # The definitions that count: all of the highest priority, in their order.
  mergeDefinitions = path: type: defs:
    let
      flat = builtins.concatMap (def: map (value: { inherit (def) file; inherit value; }) (discharge def.value)) defs;
      priority = def: if property "override" def.value then def.value.priority else defaultPriority;
      highestPrio = builtins.foldl' (least: def: lib.min least (priority def)) 9999 flat;
      strongest = builtins.filter (def: priority def == highestPrio) flat;
      bare = map (def: if property "override" def.value then def // { value = def.value.content; } else def) strongest;
      order = def: if property "order" def.value then def.value.priority else defaultOrder;
      filtered =
        if builtins.any (def: property "order" def.value) bare
        then map (def: if property "order" def.value then def // { value = def.value.content; } else def)
          (builtins.sort (a: b: order a < order b) bare)
        else bare;
      isDefined = filtered != [ ];
      wrong = builtins.filter (def: !type.check def.value) filtered;
      value =
        if !isDefined then throw "The option `${showOption path}' is needed and has no value defined"
        else if wrong != [ ] then throw "A definition of the option `${showOption path}' is not of type `${type.description}':${showDefs wrong}"
        else type.merge path filtered;
    in
    {
      inherit filtered isDefined highestPrio value;
      optional = if isDefined then { inherit value; } else { };
    };

  mkRenamedOptionModule = from: to: { options, ... }@args: {
    options = lib.setAttrByPath from (lib.mkOption { visible = false; type = lib.types.unspecified; apply = _: lib.getAttrFromPath to args.config; });
    config = lib.setAttrByPath to (mkMerge (map (def: mkOverride (lib.getAttrFromPath from options).highestPrio def)
      (lib.optionals (lib.getAttrFromPath from options).isDefined (lib.getAttrFromPath from options).definitions)));
  };
}
