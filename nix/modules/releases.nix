# What differs between releases of NixOS and between minors of Kubernetes, each with its source. Other modules do not ask for
# a version; where one has to know, it asks here. Which minors a release has, and where the others are:
# smallkube/inventory/releases.py.
#
# Releases. Every option that the modules set has the same name and type in 25.11 and 26.05 (nixos/modules of both, as of
# 2026-07-15) but for services.resolved, whose settings we only read:
#   26.05 renamed fallbackDns, domains, llmnr, dnssec and dnsovertls to settings.Resolve.* and removed extraConfig
#   (nixos/doc/manual/release-notes/rl-2605.section.md). A removed option is an error to read, so it is read by its path.
#
# Minors. No flag, field or default plugin that the modules use was removed or deprecated from 1.34 to 1.37
# (CHANGELOG-1.35 to -1.37, k8s.io/kubernetes). What concerns those who set more:
#   1.35  failCgroupV1 defaults to true (kubernetes#134298): a kubelet does not start on control groups of version 1,
#         which NixOS does not have. --pod-infra-container-image is gone (kubernetes#133779).
#   1.36  StrictIPCIDRValidation is on; gitRepo volumes are off for good; externalIPs of Services are deprecated.
#   1.37  kube-proxy exits when the node's addresses change (kubernetes#138183): Restart=always starts it again.
#         eventRecordQPS = 0 means unlimited. Objects of scheduling.k8s.io/v1alpha2 must be deleted first (kubernetes#138572).
{
  config,
  lib,
  ...
}:
let
  cfg = config.kube;

  # Minor → feature gates that it no longer has, as a component says that is given one: "unrecognized feature gate".
  removedGates = {
    "1.36" = [ "StructuredAuthorizationConfiguration" ];
    "1.37" = [
      "AnonymousAuthConfigurableEndpoints"
      "ConsistentListFromCache"
      "StructuredAuthenticationConfiguration"
    ];
  };
  removed = lib.concatLists (
    lib.attrValues (
      lib.filterAttrs (minor: _: lib.versionAtLeast cfg.kubernetesMinor minor) removedGates
    )
  );
  gatesOf =
    text: map (pair: lib.head (lib.splitString "=" pair)) (lib.splitString "," (toString text));
  used =
    builtins.attrNames (cfg.kubeletSettings.featureGates or { })
    ++ lib.optionals cfg.isPrimary (
      lib.concatMap gatesOf (lib.toList (cfg.apiserver.flags.feature-gates or [ ]))
    );
  gone = lib.intersectLists removed used;

  # "" where the release lacks the option, or has it as a removed one.
  read =
    path:
    let
      found = builtins.tryEval (lib.attrByPath (lib.splitString "." path) "" config);
    in
    if found.success then found.value else "";
in
{
  options.kube.resolvedStub = lib.mkOption {
    type = lib.types.bool;
    readOnly = true;
    internal = true;
    description = "Whether resolved answers on 127.0.0.53, as far as its settings say.";
  };

  config = {
    kube.resolvedStub =
      let
        setting = read "services.resolved.settings.Resolve.DNSStubListener"; # 26.05
        extra = read "services.resolved.extraConfig"; # 25.11
        lines = builtins.replaceStrings [ "\n" " " ] [ ";" "" ] extra;
      in
      !(lib.elem setting [
        false
        "no"
        "false"
      ])
      && builtins.match ".*DNSStubListener=(no|false).*" lines == null;

    assertions = [
      {
        assertion = gone == [ ];
        message = "kube: Kubernetes ${cfg.kubernetesMinor} has no feature gate ${lib.concatStringsSep ", " gone}, and does not start with it; remove it from kube.kubeletSettings.featureGates or kube.apiserver.flags";
      }
    ];
  };
}
