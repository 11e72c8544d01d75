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
  # A peer as words of `wg set`.
  words =
    entry:
    let
      settings = peer entry;
      keepalive = toString (settings.PersistentKeepalive or "off");
    in
    "peer ${settings.PublicKey} endpoint ${settings.Endpoint} "
    + "allowed-ips ${lib.concatStringsSep "," settings.AllowedIPs} persistent-keepalive ${keepalive}";
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

  # Any packet begins a session: here UDP, to the port "discard".
  knock = ''
    knock() {
      # shellcheck disable=SC2043 # one other node
      for address in ${toString (map (peer: kubeLib.mkHostIp6 peer.index) kubeLib.otherPeers)}; do
        { echo >"/dev/udp/$address/9"; } 2>/dev/null || true
      done
    }
  '';

  # Whenever networkd starts it gives the device all its peers anew (systemd, wireguard_set_interface), and with that
  # every session ends. Of two nodes that get new keys, the later one has to begin the new session: the other's first
  # handshake found a peer that did not know its key, and its next one comes after five seconds (REKEY_TIMEOUT). Pods that
  # only answer begin none. If both begin at once, neither handshake succeeds: the node with the lower index then makes
  # the peer anew, which ends the five seconds.
  handshakes = pkgs.writeShellApplication {
    name = "wgkube-handshakes";
    runtimeInputs = [
      pkgs.coreutils
      pkgs.wireguard-tools
    ];
    # While networkd waits (see below), while it starts, and a while longer.
    text = ''
      ${knock}
      declare -A peers=(${
        lib.concatMapStringsSep " " (entry: "[${entry.PublicKey}]=${lib.escapeShellArg (words entry)}") (
          lib.filter (entry: entry.index > cfg.nodeIndex) kubeLib.otherPeers
        )
      })
      # To read what nobody writes is a pause that needs no process.
      exec {silence}<> <(:)
      for ((left = 99; left > 0; left--)); do
        set -- /run/smallkube/*/hold
        if [ -e "$1" ]; then left=99; fi
        knock
        read -r -t 0.05 -u "$silence" || true
        # Every half a second, which is longer than a handshake takes.
        if ((left % 10)); then continue; fi
        wg show wgkube latest-handshakes | while read -r key handshake; do
          if [ "$handshake" = 0 ] && [ -n "''${peers[$key]-}" ]; then
            # shellcheck disable=SC2086 # words
            wg set wgkube peer "$key" remove ''${peers[$key]}
          fi
        done || true
      done
    '';
  };

  # In a lockstep deploy (smallkube/deploy/scripts/activation.sh) networkd, which is down and has left the tunnel as it
  # was, waits for the other nodes to get as far: they take different times to activate, and between two nodes of which
  # one alone has the new keys nothing gets through. The deploy then writes into the file when to go on, in microseconds
  # since 1970. After some 20 seconds it goes on without them.
  # At that moment the device gets its keys from here: networkd takes some tenths of a second to start, on one machine
  # more than on another. It then removes the peers that have lost their addresses to new ones.
  hold = pkgs.writeShellApplication {
    name = "wgkube-hold";
    runtimeInputs = [
      pkgs.coreutils
      pkgs.wireguard-tools
    ];
    text = ''
      ${knock}
      for _ in {1..1000}; do
        set -- /run/smallkube/*/hold
        [ -e "$1" ] || exit 0
        touch "''${1%/hold}/held"
        read -r moment <"$1" || moment=""
        [ -z "$moment" ] || break
        sleep 0.02
      done
      if [[ $moment =~ ^[0-9]{1,18}$ ]]; then
        left=$((moment - ''${EPOCHREALTIME/[.,]/}))
        if ((left > 0)); then sleep "$((left < 10000000 ? left : 10000000))e-6"; fi
        wg set wgkube private-key ${kubeLib.secretPath "wgkube.key"} ${toString (map words kubeLib.otherPeers)} || true
        knock
      fi
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
      # Begun anew with it: a rollback restarts networkd, with the previous keys, while this one may still run.
      partOf = [ "systemd-networkd.service" ];
      restartIfChanged = false;
      unitConfig = kubeLib.noStartLimit;
      serviceConfig = lib.mkMerge [
        kubeLib.hardening
        kubeLib.retry
        {
          Type = "oneshot";
          ExecStart = lib.getExe handshakes;
          CapabilityBoundingSet = "CAP_NET_ADMIN";
          # Of a oneshot, systemd calls this end a failure, also when it has stopped it itself.
          SuccessExitStatus = "SIGTERM";
        }
      ];
    };

    environment.systemPackages = [ pkgs.wireguard-tools ];
  };
}
