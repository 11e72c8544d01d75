# Functions on attribute sets.
{ lib }:
rec {
  inherit (builtins) attrNames attrValues hasAttr getAttr isAttrs mapAttrs removeAttrs intersectAttrs listToAttrs catAttrs
    zipAttrsWith;

  nameValuePair = name: value: { inherit name value; };
  optionalAttrs = condition: set: if condition then set else { };
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  attrsToList = mapAttrsToList nameValuePair;
  mapAttrs' = f: set: listToAttrs (mapAttrsToList f set);
  filterAttrs = predicate: set: removeAttrs set (builtins.filter (name: !(predicate name set.${name})) (attrNames set));
  genAttrs = names: f: listToAttrs (map (name: nameValuePair name (f name)) names);
  genAttrs' = xs: f: listToAttrs (map f xs);
  concatMapAttrs = f: set: mergeAttrsList (mapAttrsToList f set);
  mergeAttrsList = builtins.foldl' (a: b: a // b) { };
  mergeAttrs = a: b: a // b;
  zipAttrs = zipAttrsWith (_: values: values);
  foldAttrs = f: start: sets: mapAttrs (_: lib.foldr f start) (zipAttrs sets);
  collect = predicate: x:
    if predicate x then [ x ] else if isAttrs x then builtins.concatMap (collect predicate) (attrValues x) else [ ];
  attrByPath = path: default: set:
    if path == [ ] then set
    else if isAttrs set && hasAttr (builtins.head path) set then attrByPath (builtins.tail path) default set.${builtins.head path}
    else default;
  hasAttrByPath = path: set:
    path == [ ] || (isAttrs set && hasAttr (builtins.head path) set && hasAttrByPath (builtins.tail path) set.${builtins.head path});
  getAttrFromPath = path: set:
    attrByPath path (throw "cannot find attribute '${lib.concatStringsSep "." path}'") set;
  setAttrByPath = path: value:
    if path == [ ] then value else { ${builtins.head path} = setAttrByPath (builtins.tail path) value; };
  attrVals = names: set: map (name: set.${name}) names;
  getAttrs = names: set: genAttrs names (name: set.${name});
  recursiveUpdateUntil = stop: left: right:
    let
      merge = path: a: b: a // mapAttrs
        (name: value:
          if !(a ? ${name}) || stop (path ++ [ name ]) a.${name} value then value
          else merge (path ++ [ name ]) a.${name} value)
        b;
    in
    merge [ ] left right;
  recursiveUpdate = recursiveUpdateUntil (_: a: b: !(isAttrs a && isAttrs b));
  mapAttrsRecursiveCond = condition: f:
    let
      walk = path: mapAttrs (name: value:
        if isAttrs value && condition value then walk (path ++ [ name ]) value else f (path ++ [ name ]) value);
    in
    walk [ ];
  mapAttrsRecursive = mapAttrsRecursiveCond (_: true);
  filterAttrsRecursive = predicate: set:
    mapAttrs (_: value: if isAttrs value then filterAttrsRecursive predicate value else value) (filterAttrs predicate set);
  matchAttrs = pattern: set:
    builtins.all
      (name: set ? ${name} && (
        if isAttrs pattern.${name} then isAttrs set.${name} && matchAttrs pattern.${name} set.${name}
        else set.${name} == pattern.${name}))
      (attrNames pattern);
  cartesianProduct = sets:
    builtins.foldl'
      (rows: name: builtins.concatMap (row: map (value: row // { ${name} = value; }) sets.${name}) rows)
      [ { } ]
      (attrNames sets);
  isDerivation = x: isAttrs x && (x.type or null) == "derivation";
  getOutput = output: package:
    if !(package.outputSpecified or false) then package.${output} or package.out or package else package;
  getBin = getOutput "bin";
  getLib = getOutput "lib";
  getDev = getOutput "dev";
  getMan = getOutput "man";
  toposort = before: xs:
    let
      place = done: rest:
        let free = builtins.filter (x: !(builtins.any (y: y != x && before y x) rest)) rest; in
        if rest == [ ] then { result = done; }
        else if free == [ ] then { cycle = rest; loops = [ ]; }
        else place (done ++ [ (builtins.head free) ]) (builtins.filter (x: x != builtins.head free) rest);
    in
    place [ ] xs;
}
