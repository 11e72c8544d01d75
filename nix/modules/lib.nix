# What several modules share, as the module argument `kubeLib`: functions of a node's index, of secrets and certificates,
# and what our services have in common: how they come back after any fault, and how little of the machine they see.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.kube;

  secretPath = name: config.age.secrets.${name}.path or "/run/agenix/${name}";

  # A certificate in keys/.
  public = name: cfg.keysDir + "/${name}";
  isPublic = name: builtins.pathExists (public name);
  # NAME.crt, and during a rotation NAME.new.crt or NAME.old.crt beside it.
  versions =
    name:
    map (word: "${lib.removeSuffix ".crt" name}${word}.crt") [
      ""
      ".new"
      ".old"
    ];

  trustText =
    names:
    lib.concatMapStrings (name: builtins.readFile (public name)) (
      lib.filter isPublic (lib.concatMap versions names)
    );

  trustBundle = names: pkgs.writeText "trusted.crt" (trustText names);
  publicFile = name: if isPublic name then "${public name}" else "/var/empty/${name}";

  # A kubeconfig of the API server at its internal address, with this user and these settings of the cluster besides.
  # JSON is YAML.
  kubeconfig =
    user: cluster:
    pkgs.writeText "kubeconfig.json" (
      builtins.toJSON {
        apiVersion = "v1";
        kind = "Config";
        clusters = [
          {
            name = cfg.clusterName;
            cluster = {
              server = cfg.api.internalUrl;
            }
            // lib.optionalAttrs (cfg.api.tls != "pinned") { insecure-skip-tls-verify = true; }
            // cluster;
          }
        ];
        users = [
          {
            name = cfg.clusterName;
            inherit user;
          }
        ];
        contexts = [
          {
            name = cfg.clusterName;
            context = {
              cluster = cfg.clusterName;
              user = cfg.clusterName;
            };
          }
        ];
        current-context = cfg.clusterName;
      }
    );

  # Where metrics are served, besides the ports of API server and kubelets: the usual ports.
  metricsPorts = {
    etcd = 2381;
    node = 9100;
    coredns = 9153;
    crio = 9537;
    kube-proxy = 10249;
    kube-controller-manager = 10257;
    kube-scheduler = 10259;
  };
  bracketed = host: if lib.hasInfix ":" host then "[${host}]" else host;

  # Settings that a plain definition replaces, lists as a whole: that of a service of ours, or of the machine's own file.
  defaults = lib.mapAttrs (_: lib.mkDefault);
  deepDefaults = lib.mapAttrsRecursive (_: lib.mkDefault);

  # systemd.service(5), "Command lines": double quotes and C escapes; %-specifiers stay what they are.
  quoted =
    word:
    if builtins.match "[][A-Za-z0-9,._+:@%/=-]+" word != null then
      word
    else
      builtins.replaceStrings [ "$" ] [ "$$" ] (builtins.toJSON word);
in
{
  _module.args.kubeLib = {
    # An IPv4 or IPv6 range, or one address.
    types.cidr = lib.types.strMatching "[0-9A-Fa-f:.]+(/[0-9]{1,3})?";

    # Node index to subnets, addresses and names; the twin of smallkube/inventory/addressing.py. Index 0 is the
    # Services' range. N is written in decimal in both families.
    mkNodeCidr6 = index: "${cfg.prefix6}:${toString index}::/32";
    mkNodeCidr4 = index: "${cfg.prefix4}.${toString index}.0/24";
    mkHostIp6 = index: "${cfg.prefix6}:${toString index}::1";
    mkHostIp4 = index: "${cfg.prefix4}.${toString index}.1";
    mkNodeHost = index: "node${toString index}.${cfg.domain}";

    isV6 = lib.hasInfix ":";
    # The first address of a range of eight or more: its network ends in an even digit, 0 or 8, or in "::".
    firstAddress =
      cidr:
      let
        network = lib.head (lib.splitString "/" cidr);
        end = builtins.stringLength network - 1;
        digit = lib.toInt (builtins.substring end 1 network);
      in
      if lib.hasSuffix ":" network then
        "${network}1"
      else
        "${builtins.substring 0 end network}${toString (digit + 1)}";

    # The Services' IPv4 range, where it is outside of the cluster's.
    servicesElsewhere = lib.optional (!lib.hasPrefix "${cfg.prefix4}." cfg.services4) cfg.services4;

    # What both families have, that of the preferred one first.
    byPreference =
      value4: value6:
      if cfg.prefer == "ipv4" then
        [
          value4
          value6
        ]
      else
        [
          value6
          value4
        ];

    # All nodes but this one: index, PublicKey, PeerIP.
    otherPeers = lib.filter (peer: peer.index != cfg.nodeIndex) cfg.peers;

    # Where a secret is decrypted.
    inherit secretPath;
    # restartTriggers of a service that uses these secrets: their encrypted files in the store.
    secretTriggers =
      names:
      map (name: "${cfg.secretFiles.${name}}") (lib.filter (name: cfg.secretFiles ? ${name}) names);
    # LoadCredential= of a service that uses these secrets.
    loadSecrets = map (name: "${name}:${secretPath name}");
    # Where a service then finds one, for files that systemd does not expand (systemd.exec(5), LoadCredential=).
    credential = service: name: "/run/credentials/${service}.service/${name}";

    inherit isPublic;
    # A certificate as a store path of its own, so that it changes only with its content.
    inherit publicFile;
    # What a client that is shown one of these certificates trusts: also the one that replaces it, or that it has replaced.
    inherit trustText;
    inherit trustBundle;

    inherit metricsPorts bracketed;
    # Those of them that every node has (monitoring.nix).
    withMetrics = [
      "node"
      "coredns"
      "crio"
      "kube-proxy"
    ];
    # Address and port of one of these.
    metricsAddress =
      name: "${bracketed (lib.head cfg.hostIps)}:${toString metricsPorts.${name}}";
    # Flags of the scheduler and the controller manager: where they listen, and for whom. 0 is accepted and serves nothing
    # (cmd/kube-scheduler/app/options). Without --authentication-kubeconfig no token is accepted, only the certificate.
    metricsListener =
      kubeconfig: port:
      if cfg.monitoring then
        {
          secure-port = toString port;
          bind-address = "127.0.0.1";
          client-ca-file = "${trustBundle [ "monitoring.crt" ]}";
          authentication-skip-lookup = "true";
          authorization-kubeconfig = kubeconfig;
        }
      else
        { secure-port = "0"; };

    inherit kubeconfig;
    # The kubeconfig of a program that identifies itself by a certificate in keys/. It holds no secret: the key is in the
    # file ``key``, a path as the program sees it.
    identityKubeconfig =
      certificate: key:
      "${
        kubeconfig
          {
            client-certificate = publicFile certificate;
            client-key = key;
          }
          (
            lib.optionalAttrs (cfg.api.tls == "pinned") {
              certificate-authority = "${trustBundle [ "apiserver.crt" ]}";
            }
          )
      }";

    # ExecStart= of a program with its flags; one that has a list of values is given for each.
    commandLine =
      program: flags:
      lib.concatStringsSep " " (
        [ program ]
        ++ lib.concatLists (
          lib.mapAttrsToList (name: value: map (one: quoted "--${name}=${one}") (lib.toList value)) flags
        )
      );

    # What the API server and kubelets accept with TLS 1.2; TLS 1.3 has no others. Their keys are ECDSA (keys.generate), and
    # HTTP/2 demands the first one (RFC 9113, 9.2.2).
    cipherSuites = [
      "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
      "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
    ];

    inherit defaults deepDefaults;
    # A value that wins over NixOS's own and loses against the mkForce of a machine's file.
    mkOverNixos = lib.mkOverride 90;
    # A kernel setting: NixOS has some of them as mkDefault, and refuses two definitions of the same priority.
    mkSysctl = lib.mkOverride 900;

    # A program of the unit NAME that writes $KUBECONFIG with the token in a file, its argument, and ends once kubectl succeeds
    # with it and these WORDS. One program, because systemd makes a sandbox for each.
    awaitApi =
      name: words:
      pkgs.writeShellApplication {
        name = "${name}-await";
        runtimeInputs = [
          pkgs.coreutils
          cfg.mkkubeconfig
          cfg.package
        ];
        text = ''
          mkkubeconfig "$1"
          # Sixty seconds of the clock, however long each try takes, and several in each where they fail at once. After a
          # long one it pauses as long: a slow machine is to get on with what this waits for.
          failed=0 second=
          while ((failed < 60)); do
            began=$(date +%s)
            if kubectl --request-timeout=5s ${words} >/dev/null 2>&1; then
              exit 0
            fi
            now=$(date +%s)
            if [ "$now" != "$second" ]; then
              failed=$((failed + 1)) second=$now
            fi
            sleep "$((now - began)).1"
          done
          echo "\"kubectl ${words}\" fails on ${cfg.api.internalUrl}:" >&2
          kubectl --request-timeout=5s ${words}
        '';
      };
    # TimeoutStartSec= of such a unit: sixty tries, each of ten seconds at most and with as long a pause.
    awaitSeconds = lib.mkDefault 1200;

    # [Unit] settings of a service that is started again however often it failed.
    noStartLimit = defaults { StartLimitIntervalSec = 0; };
    # [Service] settings of a service that comes back ten seconds after it ended, for whatever reason. Nothing is bound to
    # another unit, so that a killed or late one never takes others down with it (systemd.unit(5): Requires=, BindsTo=).
    restart = defaults {
      Restart = "always";
      RestartSec = 10;
    };
    # The same of one that ends when its work is done (systemd refuses Restart=always with Type=oneshot).
    retry = defaults {
      Restart = "on-failure";
      RestartSec = 10;
    };
    # [Service] settings of a service that needs the network, its own folders and nothing else.
    hardening = defaults {
      CapabilityBoundingSet = "";
      LockPersonality = true;
      MemoryDenyWriteExecute = true;
      NoNewPrivileges = true;
      PrivateDevices = true;
      PrivateTmp = true;
      ProtectClock = true;
      ProtectControlGroups = true;
      ProtectHome = true;
      ProtectHostname = true;
      ProtectKernelLogs = true;
      ProtectKernelModules = true;
      ProtectKernelTunables = true;
      ProtectProc = "invisible";
      ProtectSystem = "strict";
      RemoveIPC = true;
      RestrictAddressFamilies = [
        "AF_UNIX"
        "AF_INET"
        "AF_INET6"
        "AF_NETLINK"
      ];
      RestrictNamespaces = true;
      RestrictRealtime = true;
      RestrictSUIDSGID = true;
      SystemCallArchitectures = "native";
      SystemCallErrorNumber = "EPERM";
      SystemCallFilter = [
        "@system-service"
        "~@privileged @resources"
      ];
      UMask = "0077";
    };
  };
}
