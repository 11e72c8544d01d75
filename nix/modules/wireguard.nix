# The tunnel wgkube: a mesh of WireGuard peers over which the nodes reach each other's pods and hosts.
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
  endpoint = ip: "${if lib.hasInfix ":" ip then "[${ip}]" else ip}:${toString cfg.wgPort}";
  peer =
    {
      index,
      PublicKey,
      PeerIP,
    }:
    {
      inherit PublicKey;
      Endpoint = endpoint PeerIP;
      AllowedIPs = [
        (kubeLib.mkNodeCidr6 index)
        (kubeLib.mkNodeCidr4 index)
      ];
    }
    // lib.optionalAttrs (cfg.persistentKeepalive != null) {
      PersistentKeepalive = cfg.persistentKeepalive;
    };
  routes = { index, ... }: [
    {
      Destination = kubeLib.mkNodeCidr6 index;
      PreferredSource = cfg.hostIp6;
    }
    {
      Destination = kubeLib.mkNodeCidr4 index;
      PreferredSource = cfg.hostIp4;
    }
  ];
in
{
  options.kube = {
    wgPort = mkOption {
      type = types.port;
      default = 51820;
      description = "UDP port of the tunnel, the same on every node.";
    };
    mtu = mkOption {
      type = types.ints.between 1280 65535;
      default = 1420;
      description = "MTU of the tunnel and of the pods' bridge, in bytes (IPv6 needs at least 1280).";
    };
    persistentKeepalive = mkOption {
      type = types.nullOr (types.ints.between 1 65535);
      default = null;
      description = "Seconds between keep-alive packets, for nodes behind NAT.";
    };
  };

  config = {
    systemd.network.netdevs."11-wgkube" = {
      netdevConfig = {
        Name = "wgkube";
        Kind = "wireguard";
        MTUBytes = toString cfg.mtu;
      };
      wireguardConfig = {
        PrivateKeyFile = kubeLib.secretPath "wgkube.key";
        ListenPort = cfg.wgPort;
      };
      wireguardPeers = map peer kubeLib.otherPeers;
    };
    systemd.network.networks."11-wgkube" = {
      matchConfig.Name = "wgkube";
      linkConfig.RequiredForOnline = "no";
      networkConfig = {
        ConfigureWithoutCarrier = true;
        LinkLocalAddressing = false;
        IPv6AcceptRA = false;
      };
      # Without an IPv4 address here kube-proxy masquerades with another interface's, which the peer's AllowedIPs drop.
      addresses = [
        {
          Address = "${cfg.hostIp4}/32";
          DuplicateAddressDetection = "none";
        }
      ];
      routes = lib.concatMap routes kubeLib.otherPeers;
    };

    # WireGuard sends from whatever address the kernel prefers, and the peers' firewalls let in exactly that of
    # peers.json: with temporary addresses (RFC 8981) and an IPv6 peer_ip they drop every packet.
    networking.tempAddresses = lib.mkDefault "disabled";

    kube.requiredSecrets = [ "wgkube.key" ];
    # networkd reads the key when it makes the interface; nothing else tells it that the key has changed.
    systemd.services.systemd-networkd = {
      after = [ "agenix-install-secrets.service" ];
      restartTriggers = kubeLib.secretTriggers [ "wgkube.key" ];
    };

    environment.systemPackages = [ pkgs.wireguard-tools ];
  };
}
