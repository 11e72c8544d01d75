# What else a machine's own configuration can do to our interfaces, rules, names and ports: found when it is evaluated,
# hence before a deploy sends anything. An assertion is what breaks the cluster, a warning what may.
#
# Options are read by their path, because a release may lack one, and a renamed one is an error to read.
{
  config,
  kubeLib,
  lib,
  ...
}:
let
  inherit (lib)
    any
    concatStringsSep
    elem
    filter
    hasInfix
    hasPrefix
    hasSuffix
    ;
  cfg = config.kube;
  network = config.systemd.network;
  firewall = config.networking.firewall;

  get =
    path: default:
    let
      found = builtins.tryEval (lib.attrByPath (lib.splitString "." path) default config);
    in
    if found.success then found.value else default;
  enabled = path: get "${path}.enable" false;
  list = concatStringsSep ", ";
  off =
    value:
    elem value [
      null
      false
      0
      "0"
      "no"
      "false"
    ];

  # systemd.network(5), [Match]: patterns of a shell, one of which must match; a "!" before the first inverts them.
  regex =
    pattern:
    lib.concatMapStrings (
      char:
      {
        "*" = ".*";
        "?" = ".";
        "[" = "[";
        "]" = "]";
        "-" = "-";
      }
      .${char} or (lib.escapeRegex char)
    ) (lib.stringToCharacters pattern);
  matches =
    value: text:
    let
      patterns = filter (word: word != "") (
        lib.concatMap (word: lib.splitString " " (toString word)) (lib.toList value)
      );
      found = any (word: builtins.match (regex (lib.removePrefix "!" word)) text != null) patterns;
    in
    if any (hasPrefix "!") (lib.take 1 patterns) then !found else found;
  takes =
    link: file:
    file.enable
    && lib.all (key: link ? ${key} && matches file.matchConfig.${key} link.${key}) (
      builtins.attrNames file.matchConfig
    );
  link = Name: Type: Kind: {
    inherit Name Type Kind;
    Driver = Kind;
  };
  taken =
    links: files:
    builtins.attrNames (lib.filterAttrs (_: file: any (each: takes each file) links) files);

  # networkd takes the first file, by name, that matches an interface.
  ours = {
    "10-brkube" = link "brkube" "bridge" "bridge";
    "11-wgkube" = link "wgkube" "wireguard" "wireguard";
  };
  others = removeAttrs network.networks (builtins.attrNames ours);
  before = lib.unique (
    lib.concatLists (
      lib.mapAttrsToList (
        own: each: filter (name: "${name}.network" < "${own}.network") (taken [ each ] others)
      ) ours
    )
  );
  ofPods = taken [ (link "veth1a2b3c4d" "ether" "veth") ] network.networks;

  inCluster = value: hasPrefix "${cfg.prefix4}." value || hasPrefix "${cfg.prefix6}:" value;
  valuesOf =
    file:
    map toString (
      file.address
      ++ map (each: each.Address or "") file.addresses
      ++ map (each: each.Destination or "") file.routes
    );
  foreignAddresses = filter inCluster (lib.concatMap valuesOf (builtins.attrValues others));

  # The services whose WireGuard listens on our port.
  ports =
    lib.mapAttrsToList (name: each: {
      name = "systemd.network.netdevs.${name}";
      port = each.wireguardConfig.ListenPort or null;
    }) (removeAttrs network.netdevs (builtins.attrNames ours))
    ++
      lib.concatMap
        (
          path:
          lib.mapAttrsToList (name: each: {
            name = "${path}.${name}";
            port = each.listenPort or each.port or null;
          }) (get path { })
        )
        [
          "networking.wireguard.interfaces"
          "networking.wg-quick.interfaces"
          "services.netbird.clients"
        ];
  samePort = map (each: each.name) (filter (each: toString each.port == toString cfg.wgPort) ports);

  sysctl = config.boot.kernel.sysctl;
  needed = [
    "net.ipv4.conf.all.forwarding"
    "net.ipv6.conf.all.forwarding"
    "net.bridge.bridge-nf-call-iptables"
    "net.bridge.bridge-nf-call-ip6tables"
  ];
  wrongSysctl =
    filter (name: off (sysctl.${name} or null)) needed
    ++ filter (name: sysctl ? ${name} && sysctl.${name} != null && off sysctl.${name}) [
      "net.ipv4.ip_forward"
    ]
    ++ filter (name: !off (sysctl.${name} or null)) [
      "net.ipv6.conf.all.disable_ipv6"
      "net.ipv6.conf.default.disable_ipv6"
    ];
  blacklisted = lib.intersectLists (get "boot.blacklistedKernelModules" [ ]) [
    "br_netfilter"
    "bridge"
    "nf_conntrack"
    "nf_nat"
    "nf_tables"
    "overlay"
    "veth"
    "wireguard"
  ];

  dnsmasq = get "services.dnsmasq.settings" { };
  onPort53 =
    lib.optional (
      enabled "services.dnsmasq"
      && off (dnsmasq.bind-interfaces or false)
      && off (dnsmasq.bind-dynamic or false)
      && !elem (toString (dnsmasq.port or 53)) [ "0" ]
    ) "services.dnsmasq (set settings.bind-interfaces = true)"
    ++ lib.optional (
      enabled "services.bind" && elem "any" (get "services.bind.listenOnIpv6" [ "any" ])
    ) "services.bind (name addresses in listenOnIpv6)";
  otherNames = lib.concatLists (
    lib.mapAttrsToList (
      _: filter (name: name != cfg.nodeHost && (name == cfg.domain || hasSuffix ".${cfg.domain}" name))
    ) config.networking.hosts
  );

  machine = lib.findFirst (peer: peer.index == cfg.nodeIndex) null cfg.peers;
  temporary =
    lib.optional (
      config.networking.tempAddresses != "disabled"
    ) "networking.tempAddresses is ${config.networking.tempAddresses}"
    ++ map (name: "systemd.network.networks.${name} sets IPv6PrivacyExtensions") (
      builtins.attrNames (
        lib.filterAttrs (
          _: file:
          elem (file.networkConfig.IPv6PrivacyExtensions or false) [
            true
            "yes"
            "true"
          ]
        ) others
      )
    );

  containsPort =
    opened:
    elem 10250 opened.allowedTCPPorts
    || any (range: range.from <= 10250 && 10250 <= range.to) opened.allowedTCPPortRanges;
  foreignTables = removeAttrs config.networking.nftables.tables [
    "nixos-fw"
    "kube-guard"
    "kube-nat4"
    "kube-nat6"
  ];
  drops =
    text:
    builtins.length (
      builtins.split "hook[[:space:]]+(forward|input)[^;]*;[[:space:]]*policy[[:space:]]+drop" text
    ) > 1;
  dropping =
    builtins.attrNames (lib.filterAttrs (_: table: table.enable && drops table.content) foreignTables)
    ++ lib.optional (drops config.networking.nftables.ruleset) "networking.nftables.ruleset";

  podmanSubnets = map (each: each.subnet or "") (
    get "virtualisation.podman.defaultNetwork.settings.subnets" [ { subnet = "10.88.0.0/16"; } ]
  );

  # Each is right, or the message says what to change.
  required = [
    {
      assertion = config.networking.useNetworkd && network.enable;
      message = "networking.useNetworkd and systemd.network.enable must be true: networkd makes brkube and wgkube";
    }
    {
      assertion =
        config.networking.nftables.enable
        && firewall.enable
        && firewall.filterForward
        && get "networking.firewall.backend" "nftables" == "nftables";
      message = "networking.firewall must be on, with nftables and filterForward: it keeps others out of pods, kubelet and API server";
    }
    {
      assertion =
        !config.networking.nftables.flushRuleset
        && !hasInfix "flush ruleset" config.networking.nftables.ruleset;
      message = "networking.nftables flushes the whole rule set, and kube-proxy's rules with it; remove flushRuleset or `flush ruleset`";
    }
    {
      assertion = config.services.resolved.enable && cfg.resolvedStub;
      message = "services.resolved must run with its stub listener: CoreDNS passes the names of others to it";
    }
    {
      assertion = config.networking.enableIPv6 && wrongSysctl == [ ];
      message = "pods need IPv6 and forwarding; remove networking.enableIPv6 = false and wrong values of boot.kernel.sysctl: ${list wrongSysctl}";
    }
    {
      assertion = blacklisted == [ ];
      message = "boot.blacklistedKernelModules has ${list blacklisted}, which pods or the tunnel need";
    }
    {
      assertion =
        lib.intersectLists firewall.trustedInterfaces [
          "brkube"
          "wgkube"
        ] == [ ];
      message = "networking.firewall.trustedInterfaces has brkube or wgkube, which lets pods reach every port; use network.open_to_pods";
    }
    {
      assertion = before == [ ];
      message = "systemd.network.networks.${list before} matches brkube or wgkube before our own files; name the interfaces that it is for, or let its name begin with 20-";
    }
    {
      assertion = foreignAddresses == [ ];
      message = "systemd.network.networks has ${list foreignAddresses}, which are the cluster's addresses; change them, or cluster.network.prefix4 and prefix6 before the first deploy";
    }
    {
      assertion = samePort == [ ];
      message = "${list samePort} listens on port ${toString cfg.wgPort}, as the tunnel does; change it, or cluster.network.wireguard_port";
    }
    {
      assertion = onPort53 == [ ];
      message = "CoreDNS needs port 53 of ${cfg.hostIp4} and ${cfg.hostIp6}, which is taken by ${list onPort53}";
    }
    {
      assertion = otherNames == [ ];
      message = "networking.hosts has ${list otherNames}, which are names of the cluster; remove them";
    }
    {
      assertion = machine == null || !hasInfix ":" machine.PeerIP || temporary == [ ];
      message = "the peers accept ${machine.PeerIP or ""} alone, but ${list temporary}, so that the tunnel may send from a temporary address; disable them";
    }
    {
      assertion = !any enabled kubernetes;
      message = "${list (filter enabled kubernetes)} is another Kubernetes on this machine, with the same ports; disable it";
    }
  ];
  kubernetes = [
    "services.k3s"
    "services.rke2"
  ];
in
{
  config = {
    assertions = required;
    warnings =
      lib.optional (ofPods != [ ])
        "systemd.network.networks.${list ofPods} also matches the interfaces of pods (veth*); add matchConfig.Kind = \"!*\""
      ++ lib.optional (any containsPort (builtins.attrValues firewall.allInterfaces)) "networking.firewall opens port 10250, the kubelet's, to pods; leave it out of allowedTCPPorts and allowedTCPPortRanges"
      ++ lib.optional (
        dropping != [ ]
      ) "${list dropping}: its policy drops what our rules accept; accept brkube and wgkube there, too"
      ++ lib.optional (get "security.lockKernelModules" false) "security.lockKernelModules: modules that pods need later cannot be loaded; name them in boot.kernelModules"
      ++
        lib.optional (enabled "virtualisation.podman" && any inCluster podmanSubnets)
          "podman gives addresses of the cluster to containers of root; set virtualisation.podman.defaultNetwork.settings.subnets";

    # NetworkManager leaves alone what it did not make, unless it is told otherwise; networkd waits for nothing then.
    networking.networkmanager.unmanaged = map (name: "interface-name:${name}") [
      "brkube"
      "wgkube"
      "veth*"
    ];
    systemd.network.wait-online.enable = lib.mkIf config.networking.networkmanager.enable (
      lib.mkDefault false
    );
  };
}
