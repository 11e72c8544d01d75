# Services of NixOS that our modules build on (NixOS 25.11: services/networking/coredns.nix, virtualisation/cri-o.nix,
# virtualisation/containers.nix, services/networking/ssh/sshd.nix, system/boot/resolved.nix, services/system/dbus.nix).
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkIf;
  coredns = config.services.coredns;
  corefile = pkgs.writeText "Corefile" coredns.config;
  exporter = config.services.prometheus.exporters.node;
  crio = config.virtualisation.cri-o;
  crioConfig = (pkgs.formats.toml { }).generate "00-default.conf" crio.settings;
  ssh = config.services.openssh;
in
{
  config = lib.mkMerge [
    (mkIf (ssh.enable && ssh.openFirewall) { networking.firewall.allowedTCPPorts = ssh.ports; })
    {
      # Only packages of one file, whose name they have; dbus-daemon notices it (NixOS: one configuration of all packages).
      environment.etc = lib.listToAttrs (map
        (package: lib.nameValuePair "dbus-1/system.d/${package.name}" { source = "${package}/share/dbus-1/system.d/${package.name}"; })
        config.services.dbus.packages);
    }
    (mkIf config.services.resolved.enable {
      systemd.services.systemd-resolved = {
        wantedBy = [ "sysinit.target" ];
        stopIfChanged = false;
      };
    })
    (mkIf coredns.enable {
      systemd.services.coredns = {
        description = "Coredns dns server";
        after = [ "network.target" ];
        wantedBy = [ "multi-user.target" ];
        serviceConfig = {
          PermissionsStartOnly = true;
          LimitNPROC = 512;
          LimitNOFILE = 1048576;
          CapabilityBoundingSet = "cap_net_bind_service";
          AmbientCapabilities = "cap_net_bind_service";
          NoNewPrivileges = true;
          DynamicUser = true;
          ExecStart = "${lib.getBin coredns.package}/bin/coredns -conf=${corefile}"
            + lib.optionalString (coredns.extraArgs != [ ]) " ${lib.escapeShellArgs coredns.extraArgs}";
          ExecReload = "${pkgs.coreutils}/bin/kill -SIGUSR1 $MAINPID";
          Restart = "on-failure";
        };
      };
    })
    (mkIf exporter.enable {
      users.groups.node-exporter = { };
      users.users.node-exporter = { isSystemUser = true; group = "node-exporter"; };
      systemd.services.prometheus-node-exporter = {
        after = [ "network.target" ];
        wantedBy = [ "multi-user.target" ];
        serviceConfig = {
          User = "node-exporter";
          Group = "node-exporter";
          Restart = "always";
          ExecStart = "${pkgs.prometheus-node-exporter}/bin/node_exporter ${lib.concatMapStringsSep " " (name: "--collector.${name}") exporter.enabledCollectors} --web.listen-address ${exporter.listenAddress}:${toString exporter.port}";
        };
      };
    })
    (mkIf crio.enable {
      environment.systemPackages = [ crio.package pkgs.cri-tools ];
      environment.etc."crictl.yaml".source = "${crio.package}/etc/crictl.yaml";
      environment.etc."cni/net.d/10-crio-bridge.conflist".source = "${crio.package}/etc/cni/net.d/10-crio-bridge.conflist";
      environment.etc."cni/net.d/99-loopback.conflist".source = "${crio.package}/etc/cni/net.d/99-loopback.conflist";
      environment.etc."crio/crio.conf.d/00-default.conf".source = crioConfig;
      virtualisation.containers.enable = true;
      virtualisation.cri-o.settings.crio = {
        storage_driver = crio.storageDriver;
        image.pause_image = mkIf (crio.pauseImage != null) crio.pauseImage;
        image.pause_command = mkIf (crio.pauseCommand != null) crio.pauseCommand;
        network.plugin_dirs = [ "${pkgs.cni-plugins}/bin" ];
        network.network_dir = mkIf (crio.networkDir != null) crio.networkDir;
        runtime = {
          cgroup_manager = "systemd";
          log_level = crio.logLevel;
          manage_ns_lifecycle = true;
          pinns_path = "${crio.package}/bin/pinns";
          hooks_dir = [ ];
          default_runtime = mkIf (crio.runtime != null) crio.runtime;
          runtimes = mkIf (crio.runtime != null) { ${crio.runtime} = { }; };
        };
      };
      systemd.services.crio = {
        description = "Container Runtime Interface for OCI (CRI-O)";
        documentation = [ "https://github.com/cri-o/cri-o" ];
        wantedBy = [ "multi-user.target" ];
        after = [ "network.target" ];
        path = [ crio.package ];
        restartTriggers = [ crioConfig ];
        serviceConfig = {
          Type = "notify";
          ExecStart = "${crio.package}/bin/crio";
          ExecReload = "/bin/kill -s HUP $MAINPID";
          TasksMax = "infinity";
          LimitNOFILE = "1048576";
          LimitNPROC = "1048576";
          LimitCORE = "infinity";
          OOMScoreAdjust = "-999";
          TimeoutStartSec = "0";
          Restart = "on-abnormal";
        };
      };
    })
    (mkIf config.virtualisation.containers.enable {
      environment.etc."containers/policy.json".text = builtins.toJSON { default = [{ type = "insecureAcceptAnything"; }]; };
      environment.etc."containers/registries.conf".text = "unqualified-search-registries = [\"docker.io\", \"quay.io\"]\n";
    })
  ];
}
