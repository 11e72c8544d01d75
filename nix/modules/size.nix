# What our services take of a small machine at rest. Nothing here is for larger ones, or busy ones: it trades the speed of
# bursts for memory and wake-ups.
#
# Measured on machines of two cores that were idle for seven minutes (a standard primary) and ten (the others) after a
# smoke test, beside other work (Kubernetes 1.36.3; python -m bench footprint): all of a primary 744 -> 717 MiB and
# 4.1 -> 3.9 % of a core, of a worker 243 -> 233 MiB and 0.80 -> 0.71 %. With nothing beside, more of the programs' pages
# were in memory: of a worker 264 -> 255 MiB and 0.86 -> 0.66 %.
#   GOGC=50        The heap may grow by half instead of twofold before it is collected (pkg.go.dev/runtime). API server
#                  269 -> 252 MiB, kubelet 87 -> 81, CRI-O 60 -> 55, controller manager 109 -> 107, scheduler 63 -> 62; etcd
#                  has 7 MiB less that are not of its database. kube-proxy and CoreDNS stay below the least heap that the
#                  runtime collects.
#   GOMAXPROCS=1   One thread runs Go, so that no timer wakes up a second one that then finds nothing to do. Of a core:
#                  controller manager 0.94 -> 0.66 %, etcd 0.72 -> 0.64, kubelet 0.57 -> 0.49, CRI-O 0.17 -> 0.16. Not for
#                  the API server, which everybody waits for.
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
