# Functions on lists.
{ lib }:
rec {
  inherit (builtins) head tail length elem elemAt filter map concatLists concatMap all any foldl' sort genList isList
    partition groupBy;

  singleton = x: [ x ];
  toList = x: if isList x then x else [ x ];
  optional = condition: x: if condition then [ x ] else [ ];
  optionals = condition: xs: if condition then xs else [ ];
  range = first: last: if first > last then [ ] else genList (n: first + n) (last - first + 1);
  replicate = n: x: genList (_: x) n;
  last = xs: if xs == [ ] then throw "lists.last: the list is empty" else elemAt xs (length xs - 1);
  init = xs: if xs == [ ] then throw "lists.init: the list is empty" else take (length xs - 1) xs;
  take = n: xs: genList (elemAt xs) (lib.max 0 (lib.min n (length xs)));
  drop = n: xs: let from = lib.max 0 (lib.min n (length xs)); in genList (i: elemAt xs (from + i)) (length xs - from);
  sublist = start: count: xs: take count (drop start xs);
  reverseList = xs: let n = length xs; in genList (i: elemAt xs (n - 1 - i)) n;
  imap0 = f: xs: genList (i: f i (elemAt xs i)) (length xs);
  imap1 = f: xs: genList (i: f (i + 1) (elemAt xs i)) (length xs);
  forEach = xs: f: map f xs;
  flatten = x: if isList x then concatMap flatten x else [ x ];
  remove = x: filter (y: y != x);
  unique = foldl' (seen: x: if elem x seen then seen else seen ++ [ x ]) [ ];
  allUnique = xs: length (unique xs) == length xs;
  subtractLists = unwanted: filter (x: !(elem x unwanted));
  intersectLists = wanted: filter (x: elem x wanted);
  mutuallyExclusive = a: b: length a == 0 || !(any (x: elem x a) b);
  foldr = f: start: xs:
    let
      n = length xs;
      go = i: if i == n then start else f (elemAt xs i) (go (i + 1));
    in
    go 0;
  fold = foldr;
  foldl = foldl';
  count = predicate: xs: length (filter predicate xs);
  findFirst = predicate: default: xs:
    let found = filter predicate xs; in if found == [ ] then default else head found;
  findSingle = predicate: default: multiple: xs:
    let found = filter predicate xs; in
    if found == [ ] then default else if length found > 1 then multiple else head found;
  zipListsWith = f: a: b: genList (i: f (elemAt a i) (elemAt b i)) (lib.min (length a) (length b));
  zipLists = zipListsWith (fst: snd: { inherit fst snd; });
  crossLists = f: foldl' (fs: args: concatMap (g: map g args) fs) [ f ];
  sortOn = key: xs: map (pair: pair.value) (sort (a: b: a.key < b.key) (map (value: { inherit value; key = key value; }) xs));
  naturalSort = sort (a: b: a < b);
}
