# Functions on functions, numbers and files.
{ lib }:
rec {
  inherit (builtins) add sub lessThan seq deepSeq isBool isInt isFloat isFunction functionArgs bitAnd bitOr bitXor
    pathExists readFile toString trace throw genericClosure;

  id = x: x;
  const = x: _: x;
  flip = f: a: b: f b a;
  pipe = builtins.foldl' (x: f: f x);
  mul = a: b: a * b;
  min = a: b: if a < b then a else b;
  max = a: b: if a > b then a else b;
  mod = a: b: a - b * (a / b);
  fix = f: let x = f x; in x;
  mapNullable = f: a: if a == null then null else f a;
  importJSON = file: builtins.fromJSON (builtins.readFile file);
  importTOML = file: builtins.fromTOML (builtins.readFile file);
  boolToString = b: if b then "true" else "false";
  warn = message: builtins.trace "evaluation warning: ${message}";
  warnIf = condition: message: if condition then warn message else id;
  throwIf = condition: message: if condition then throw message else id;
  throwIfNot = condition: throwIf (!condition);
  assertMsg = condition: message: condition || throw message;
  assertOneOf = name: value: allowed:
    assertMsg (builtins.elem value allowed)
      "${name} must be one of ${lib.concatMapStringsSep ", " builtins.toJSON allowed}, but is: ${builtins.toJSON value}";
  isFunctionLike = f: builtins.isFunction f || (f ? __functor && builtins.isFunction (f.__functor f));
  setFunctionArgs = f: args: { __functor = _: f; __functionArgs = args; };
  version = (import ../release.nix).nixos;
  trivial = { release = (import ../release.nix).nixos; };

  # Activation snippets and their order (nixpkgs: strings-with-deps).
  noDepEntry = text: { inherit text; deps = [ ]; };
  fullDepEntry = text: deps: { inherit text deps; };
  stringAfter = deps: text: { inherit text deps; };
}
