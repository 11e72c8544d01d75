# Pods end in order before their machine restarts or powers off: the kubelet delays logind (systemd-inhibit(1)) until it has
# ended them, those of critical priority last. Controllers then start others; a pod without a controller does not
# come back (https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/).
{
  config,
  kubeLib,
  pkgs,
  ...
}:
let
  inherit (config.kube) kubeletSettings;
  file = "systemd/logind.conf.d/90-kubelet.conf";
  signal = ''send_type="signal" send_interface="org.freedesktop.login1.Manager" send_member="PrepareForShutdown"'';
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

    # The kubelet believes whoever sends the signal (pkg/kubelet/nodeshutdown/systemd/inhibit_linux.go): on a bus that lets
    # every user send it, each could end all pods. logind is root.
    services.dbus.packages = [
      (pkgs.writeTextDir "share/dbus-1/system.d/kubelet-shutdown.conf" ''
        <!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
          "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
        <busconfig>
          <policy context="default">
            <deny ${signal}/>
          </policy>
          <policy user="root">
            <allow ${signal}/>
          </policy>
        </busconfig>
      '')
    ];
  };
}
