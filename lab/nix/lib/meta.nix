# Programs of packages.
{ lib }:
rec {
  getExe' = package: program: "${lib.getBin package}/bin/${program}";
  getExe = package: getExe' package (package.meta.mainProgram or package.pname or (builtins.parseDrvName package.name).name);
  lowPrio = package: package;
  maintainers = { };
  licenses = { };
  platforms = { linux = [ "x86_64-linux" "aarch64-linux" ]; };
  toDerivation = path: { type = "derivation"; name = baseNameOf (toString path); outPath = toString path; out = toString path; };
}
