# Comparing version numbers.
{ lib }:
let
  parts = builtins.splitVersion;
in
{
  versionOlder = a: b: builtins.compareVersions b a == 1;
  versionAtLeast = a: b: builtins.compareVersions b a != 1;
  major = version: builtins.elemAt (parts version) 0;
  minor = version: builtins.elemAt (parts version) 1;
  patch = version: builtins.elemAt (parts version) 2;
  majorMinor = version: lib.concatStringsSep "." (lib.take 2 (parts version));
}
