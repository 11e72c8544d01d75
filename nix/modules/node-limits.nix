# How much of a machine pods may take, so that the machine itself stays usable, small ones too.
#
# Evictions: https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/.
{
  config,
  kubeLib,
  ...
}:
let
  inherit (config.kube) isPrimary;
in
{
  config.kube.kubeletSettings = kubeLib.deepDefaults {
    # Threads count too: a database or a JVM has some thousands of them, a fork bomb ends here.
    podPidsLimit = 4096;

    # What our services and the rest of the system need: measured at rest, 768 MiB on the primary and 279 on a worker. The
    # scheduler, and the control group of all pods, count with what is left; to limit the services too would need a
    # slice for each (enforceNodeAllocatable is "pods"). A kubelet does not start when this and the hard eviction
    # threshold are more than the machine has: they are less than 1 GB here.
    kubeReserved = {
      cpu = if isPrimary then "200m" else "100m";
      memory = if isPrimary then "640Mi" else "256Mi";
    };
    systemReserved = {
      cpu = "100m";
      memory = "128Mi";
    };

    # Unused images go first (at 20 % of free space), then pods with their grace periods (at 15 %), then pods at once. Images
    # do not go by age (imageMaximumGCAge): one that was imported for the pull policy Never would not come back.
    imageGCHighThresholdPercent = 80;
    imageGCLowThresholdPercent = 70;
    evictionSoft = {
      "memory.available" = "150Mi";
      "nodefs.available" = "15%";
      "imagefs.available" = "15%";
    };
    evictionSoftGracePeriod = {
      "memory.available" = "1m30s";
      "nodefs.available" = "2m";
      "imagefs.available" = "2m";
    };
    evictionMaxPodGracePeriod = 60;
    # Without mergeDefaultEvictionSettings these replace the kubelet's own as a whole.
    evictionHard = {
      "memory.available" = "100Mi";
      "nodefs.available" = "10%";
      "nodefs.inodesFree" = "5%";
      "imagefs.available" = "10%";
      "imagefs.inodesFree" = "5%";
      "pid.available" = "10%";
    };

    # One registry that does not answer must not hold up the images of all other pods.
    serializeImagePulls = false;
    maxParallelImagePulls = 3;
  };
}
