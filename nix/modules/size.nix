# What our services take of a small machine at rest. Nothing here is for larger ones, or busy ones: it trades the speed of
# bursts for memory and wake-ups.
#
# Measured on three idle machines of two cores (Kubernetes 1.36.3, no pods; python -m bench footprint):
#   GOGC=50        The heap may grow by half instead of twofold before it is collected (pkg.go.dev/runtime). Memory: API
#                  server -41 MiB, etcd -8, kubelet -6, CRI-O -5, controller manager -5, scheduler -2. kube-proxy and
#                  CoreDNS stay below the least heap that the runtime collects.
#   GOMAXPROCS=1   One thread runs Go, so that no timer wakes up a second one that then finds nothing to do, which is half of
#                  what an idle controller manager does. Of a core: controller manager 0.86 -> 0.62 %, etcd 0.70 -> 0.46,
#                  kubelet 0.60 -> 0.44, CRI-O 0.18 -> 0.15. Not for the API server, which everybody waits for.
#
# Tried, and not worth it: watch caches off for 27 resources (no memory, 0.1 % of a core), eight controllers off (2 MiB),
# etcd's heartbeat at 250 ms and the kubelet's --housekeeping-interval at 30 s (nothing). GOMEMLIMIT is no setting for a
# server whose live heap grows with its objects: beyond the limit it collects all the time (orbstack/orbstack#2633).
{
  config,
  kubeLib,
  lib,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.kube;
  few = {
    GOGC = "50";
    GOMAXPROCS = "1";
  };
  services = {
    crio = few;
    kubelet = few;
  }
  // lib.optionalAttrs cfg.isPrimary {
    etcd = few;
    kube-apiserver = { inherit (few) GOGC; };
    kube-controller-manager = few;
    kube-scheduler = few;
  };
in
{
  options.kube.size = mkOption {
    type = types.enum [
      "small"
      "standard"
    ];
    default = "standard";
    description = "Whether the services save memory and processor time, at the expense of bursts: for machines of up to two cores or 2 GB.";
  };

  config.systemd.services = lib.mkIf (cfg.size == "small") (
    lib.mapAttrs (_: variables: { environment = kubeLib.defaults variables; }) services
  );
}
