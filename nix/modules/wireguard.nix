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

  # Whenever networkd starts it gives the device all its peers anew (systemd, wireguard_set_interface), and with that
  # every session ends. Of two nodes that get new keys, the later one has to begin the new session: the other's first
  # handshake found a peer that did not know its key, and its next one comes after five seconds (REKEY_TIMEOUT). Pods that
  # only answer begin none.
  handshakes = pkgs.writeShellApplication {
    name = "wgkube-handshakes";
    runtimeInputs = [ pkgs.coreutils ];
    # Any packet begins a session: here UDP, to the port "discard". networkd sets the device soon after it has started.
    text = ''
      addresses=(${toString (map (peer: kubeLib.mkHostIp6 peer.index) kubeLib.otherPeers)})
      for _ in {1..60}; do
        for address in "''${addresses[@]}"; do
          { echo >"/dev/udp/$address/9"; } 2>/dev/null || true
        done
        sleep 0.05
      done
    '';
  };

  # In a lockstep deploy (smallkube/deploy/scripts/activation.sh) networkd, which is down and has left the tunnel as it
  # was, waits for the other nodes to get as far: they take different times to activate, and between two nodes of which
  # one alone has the new keys nothing gets through. The deploy then writes into the file when to go on, in microseconds
  # since 1970. After some 20 seconds it goes on without them.
  hold = pkgs.writeShellApplication {
    name = "wgkube-hold";
    runtimeInputs = [ pkgs.coreutils ];
    text = ''
      for _ in {1..1000}; do
        set -- /run/smallkube/*/hold
        [ -e "$1" ] || exit 0
        touch "''${1%/hold}/held"
        read -r moment <"$1" || moment=""
        [ -z "$moment" ] || [ "''${EPOCHREALTIME/[.,]/}" -lt "$moment" ] || break
        sleep 0.02
      done
      rm -f /run/smallkube/*/hold /run/smallkube/*/held
    '';
  };
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
      # Never a reason for networkd not to start; with root's rights, which networkd itself has not.
      serviceConfig.ExecStartPre = "-+${lib.getExe hold}";
    };

    systemd.services.wgkube-handshakes = {
      description = "WireGuard sessions with all peers";
      wantedBy = [ "systemd-networkd.service" ];
      after = [ "systemd-networkd.service" ];
      restartIfChanged = false;
      unitConfig = kubeLib.noStartLimit;
      serviceConfig = lib.mkMerge [
        kubeLib.hardening
        kubeLib.retry
        {
          Type = "oneshot";
          ExecStart = lib.getExe handshakes;
        }
      ];
    };

    environment.systemPackages = [ pkgs.wireguard-tools ];
  };
}
