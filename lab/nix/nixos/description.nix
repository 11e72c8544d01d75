# The system description: everything that a lab node's programs apply, as one value (its schema: docs of the lab).
{ config, lib, pkgs, labRelease, ... }:
let
  build = config.system.build;
  failed = map (a: a.message) (builtins.filter (a: !a.assertion) config.assertions);

  description = {
    node = "node${toString (config.kube.nodeIndex or 0)}";
    version = "${labRelease} (smallkube lab)";
    inherit (build) units networkd nftables hosts etc users groups baseUsers baseGroups sysctl tmpfiles activationScripts unsupported;
    inherit (config.boot) kernelModules;
    secrets = builtins.mapAttrs
      (_: secret: { file = "${secret.file}"; inherit (secret) path mode owner group name symlink; })
      config.age.secrets;
    inherit (config.age) identityPaths;
    packages = map toString config.environment.systemPackages;
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
          name = "nixos-system-${description.node}-${labRelease}";
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
