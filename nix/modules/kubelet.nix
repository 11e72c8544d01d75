# The kubelet, on every node.
#
# What it mounts for pods must be seen by CRI-O and the other way round, so the unit can have no mount namespace: every
# setting of systemd.exec(5) that implies one is out, and so are credentials. What can be had without is set below.
#
# Configuration: https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/ (1.34).
{
  config,
  kubeLib,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.kube;
  key = "kubelet_node${toString cfg.nodeIndex}.key";
  certificate = "kubelet_node${toString cfg.nodeIndex}.crt";
  identity = "node_node${toString cfg.nodeIndex}";
  # KEY=VALUE:EFFECT
  taint =
    text:
    let
      parts = lib.splitString ":" text;
      pair = lib.splitString "=" (lib.head parts);
    in
    {
      key = lib.head pair;
      effect = lib.last parts;
    }
    // lib.optionalAttrs (lib.length pair > 1) { value = lib.last pair; };
  configFile = pkgs.writeText "kubelet.json" (builtins.toJSON cfg.kubeletSettings);
in
{
  options.kube.kubeletSettings = mkOption {
    type = (pkgs.formats.json { }).type;
    default = { };
    example = {
      maxPods = 250;
    };
    description = "The KubeletConfiguration. What the modules set are defaults, field by field; a list is replaced as a whole.";
  };

  config = {
    kube.kubeletSettings = lib.mkMerge [
      (kubeLib.deepDefaults {
        apiVersion = "kubelet.config.k8s.io/v1beta1";
        kind = "KubeletConfiguration";
        # Where clients that take a node's first address look for it.
        address = lib.head cfg.hostIps;
        healthzPort = 0;
        tlsCertFile = kubeLib.publicFile certificate;
        tlsPrivateKeyFile = kubeLib.secretPath key;
        tlsCipherSuites = kubeLib.cipherSuites;
        # Pods that choose no seccomp profile get that of the container runtime.
        seccompDefault = true;
        # false: the kernel's settings that it needs, it sets itself, instead of not starting on a machine with others.
        protectKernelDefaults = false;
        containerRuntimeEndpoint = "unix:///run/crio/crio.sock";
        cgroupDriver = "systemd";
        failSwapOn = false;
        memorySwap.swapBehavior = "LimitedSwap";
        clusterDomain = cfg.domain;
        clusterDNS = [ (lib.head cfg.hostIps) ];
        # The default is under /usr.
        volumePluginDir = "/var/lib/kubelet/volumeplugins";
        # resolved's stub on 127.0.0.53 can't be reached from a pod.
        resolvConf = "/run/systemd/resolve/resolv.conf";
      })
      (lib.mkIf (cfg.registeredTaints != [ ]) (
        kubeLib.deepDefaults { registerWithTaints = map taint cfg.registeredTaints; }
      ))
    ];
    kube.requiredSecrets = [
      key
      "${identity}.key"
    ];
    kube.requiredPublic = [
      certificate
      "${identity}.crt"
    ];

    systemd.services.kubelet = {
      description = "Kubernetes node agent";
      documentation = [ "https://kubernetes.io/docs/" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "crio.service" ];
      after = [
        "network.target"
        "agenix-install-secrets.service"
        "crio.service"
      ]
      ++ cfg.afterActivation;
      unitConfig = kubeLib.noStartLimit;
      restartTriggers = kubeLib.secretTriggers [
        key
        "${identity}.key"
      ];
      path = [ pkgs.util-linux ];
      serviceConfig = lib.mkMerge [
        kubeLib.restart
        (kubeLib.defaults {
          OOMScoreAdjust = -999;
          # What a kubelet never does: load modules, set the clock, reboot, debug, audit, administer MAC.
          CapabilityBoundingSet = "~CAP_SYS_MODULE CAP_SYS_TIME CAP_SYS_BOOT CAP_SYS_RAWIO CAP_SYS_PACCT CAP_SYS_TTY_CONFIG CAP_LEASE CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_AUDIT_WRITE CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_WAKE_ALARM CAP_BLOCK_SUSPEND";
          SystemCallErrorNumber = "EPERM";
          SystemCallFilter = "~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @swap";
          LockPersonality = true;
          MemoryDenyWriteExecute = true;
          NoNewPrivileges = true;
          RestrictAddressFamilies = [
            "AF_UNIX"
            "AF_INET"
            "AF_INET6"
            "AF_NETLINK"
          ];
          RestrictRealtime = true;
          SystemCallArchitectures = "native";
        })
        {
          Type = "notify";
          # The node's token, of earlier versions.
          ExecStartPre = "${pkgs.coreutils}/bin/rm -f /run/kubeconfig-node";
          ExecStart = kubeLib.commandLine "${cfg.package}/bin/kubelet" {
            config = "${configFile}";
            kubeconfig = kubeLib.identityKubeconfig "${identity}.crt" (kubeLib.secretPath "${identity}.key");
            hostname-override = cfg.nodeHost;
            # The first one's family is that of a pod's first address, too. IPv6 alone would leave hostNetwork pods
            # without endpoints in IPv4 Services.
            node-ip = lib.concatStringsSep "," cfg.hostIps;
            node-labels = "role=${cfg.role}";
          };
        }
      ];
    };
  };
}
