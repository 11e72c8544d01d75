# The system description: everything that a lab node's programs apply, as one value (its schema: docs of the lab).
{ config, lib, pkgs, ... }:
let
  build = config.system.build;
  failed = map (a: a.message) (builtins.filter (a: !a.assertion) config.assertions);

  # Generated programs, for shellcheck: of units, of packages, and whatever a unit executes directly.
  executable = x: builtins.isAttrs x && (x.executable or false);
  executed = lib.concatMap
    (service: service.jobScripts
      ++ builtins.filter executable (lib.concatMap lib.toList (builtins.attrValues service.serviceConfig)))
    (builtins.attrValues config.systemd.services);
  programs = executed ++ builtins.filter executable config.environment.systemPackages;

  description = {
    node = "node${toString (config.kube.nodeIndex or 0)}";
    version = "25.11 (smallkube lab)";
    inherit (build) units networkd nftables hosts etc users groups baseUsers baseGroups sysctl tmpfiles activationScripts unsupported;
    inherit (config.boot) kernelModules;
    secrets = builtins.mapAttrs
      (_: secret: { file = "${secret.file}"; inherit (secret) path mode owner group name symlink; })
      config.age.secrets;
    inherit (config.age) identityPaths;
    packages = map toString config.environment.systemPackages;
    scripts = builtins.listToAttrs (map
      (program: lib.nameValuePair (builtins.unsafeDiscardStringContext program.program) program.text)
      programs);
    failedAssertions = failed;
    inherit (config) warnings;
  };
in
{
  config.system.build = {
    inherit description;
    # Built on a lab node by its own program; the description says what, and makes everything it names a dependency.
    toplevel =
      if failed != [ ] then throw "\nFailed assertions:\n${lib.concatMapStrings (message: "- ${message}\n") failed}"
      else lib.foldr (message: builtins.trace "evaluation warning: ${message}")
        (derivation {
          name = "nixos-system-${description.node}-25.11";
          inherit (pkgs) system;
          builder = "/usr/bin/python3";
          args = [ "/opt/smallkube-lab/bin/build-system" ];
          description = builtins.toJSON description;
          passAsFile = [ "description" ];
          preferLocalBuild = true;
          allowSubstitutes = false;
        })
        config.warnings;
  };
}
