# What NixOS derives from a service's options: its scripts become programs, its packages the PATH
# (NixOS 25.11: nixos/lib/systemd-lib.nix; every service gets coreutils, findutils, gnugrep, gnused and systemd).
{ pkgs, nixos }:
{ name, config, lib, ... }:
let
  inherit (lib) mkIf mkMerge;
  program = step: text:
    let clean = builtins.replaceStrings [ "\\" "@" ] [ "-" "_" ] "${name}-${step}"; in
    if config.enableStrictShellChecks || nixos.systemd.enableStrictShellChecks
    then pkgs.writeShellApplication { name = clean; inherit text; }
    else pkgs.writeShellScriptBin clean "set -e\n\n${text}\n";
  step = option: suffix: define:
    let made = program suffix config.${option}; in
    mkIf (config.${option} != "") { serviceConfig = define made.program; };
in
{
  config = mkMerge [
    { path = lib.mkAfter [ pkgs.coreutils pkgs.findutils pkgs.gnugrep pkgs.gnused nixos.systemd.package ]; }
    (mkIf (config.path != [ ]) {
      environment.PATH = "${lib.makeBinPath config.path}:${lib.makeSearchPathOutput "bin" "sbin" config.path}";
    })
    (step "preStart" "pre-start" (program: { ExecStartPre = [ program ]; }))
    (step "script" "start" (program: { ExecStart = "${program} ${config.scriptArgs}"; }))
    (step "postStart" "post-start" (program: { ExecStartPost = [ program ]; }))
    (step "reload" "reload" (program: { ExecReload = program; }))
    (step "preStop" "pre-stop" (program: { ExecStop = program; }))
    (step "postStop" "post-stop" (program: { ExecStopPost = program; }))
  ];
}
