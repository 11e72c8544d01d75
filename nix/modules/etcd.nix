# etcd, on the primary: reachable through unix sockets only, and only for members of its group.
#
# etcd binds a peer URL by its host part alone (server/embed/etcd.go), so "unix:///run/etcd/peer" becomes an abstract
# socket without any permissions, on which it also answers clients. "unix://peer" in the working directory is a real
# file; the network namespace of its own closes abstract sockets to all other processes in any case.
{
  config,
  kubeLib,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.kube;
in
{
  config = lib.mkIf cfg.isPrimary {
    users.groups.etcd = { };
    users.users.etcd = {
      isSystemUser = true;
      group = "etcd";
      description = "etcd";
    };

    systemd.services.etcd = {
      description = "etcd, the cluster's database";
      documentation = [ "https://etcd.io/docs/v3.6/" ];
      wantedBy = [ "multi-user.target" ];
      unitConfig = kubeLib.noStartLimit;
      serviceConfig = lib.mkMerge [
        kubeLib.hardening
        kubeLib.restart
        {
          Type = "notify";
          User = "etcd";
          Group = "etcd";
          StateDirectory = "etcd";
          StateDirectoryMode = "0700";
          RuntimeDirectory = "etcd";
          RuntimeDirectoryMode = "0750";
          WorkingDirectory = "/run/etcd";
          PrivateNetwork = true;
          # Sockets become 0770: membership of the group is the access control.
          UMask = "0007";
          LimitNOFILE = lib.mkDefault 65536;
          ExecStart = kubeLib.commandLine "${cfg.etcdPackage}/bin/etcd" (
            {
              name = cfg.nodeHost;
              data-dir = "/var/lib/etcd";
              listen-peer-urls = "unix://peer";
              listen-client-urls = "unix:///run/etcd/grpc";
              listen-client-http-urls = "unix:///run/etcd/http";
              # Required, and unused.
              advertise-client-urls = "http://localhost:2379";
              auto-compaction-retention = "8h";
            }
            # A socket of its own, because "http" serves all keys, too; bound as that of the peers is.
            // lib.optionalAttrs cfg.monitoring { listen-metrics-urls = "unix://metrics"; }
          );
        }
      ];
    };

    # zstd packs the snapshots that inv etcd.backup fetches.
    environment.systemPackages = [
      cfg.etcdPackage
      pkgs.zstd
    ];
  };
}
