# Pods end in order before their machine restarts or powers off: the kubelet delays logind (systemd-inhibit(1)) until it has
# ended them, those of critical priority last. They end as failed, so that controllers start others; a pod without
# a controller does not come back (https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/).
{
  config,
  kubeLib,
  ...
}:
let
  inherit (config.kube) kubeletSettings;
  file = "systemd/logind.conf.d/90-kubelet.conf";
in
{
  config = {
    kube.kubeletSettings = kubeLib.deepDefaults {
      # The critical ones' share included; what remains is a pod's usual grace period. Both are limits, not waits.
      shutdownGracePeriod = "45s";
      shutdownGracePeriodCriticalPods = "15s";
    };

    # The kubelet would write it to /etc itself (99-kubelet.conf) as long as logind allows less. Go's durations are systemd's
    # time spans too (systemd.time(7)).
    environment.etc.${file}.text = ''
      [Login]
      InhibitDelayMaxSec=${kubeletSettings.shutdownGracePeriod}
    '';
    systemd.services.systemd-logind.reloadTriggers = [ config.environment.etc.${file}.source ];
  };
}
