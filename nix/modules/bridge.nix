# The bridge brkube, to which CNI connects this node's pods. The host's cluster addresses live on it.
{
  config,
  kubeLib,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.kube;
  # A tentative address can't be the preferred source of a route.
  address = value: {
    Address = value;
    DuplicateAddressDetection = "none";
  };
in
{
  config = {
    systemd.network.netdevs."10-brkube".netdevConfig = {
      Name = "brkube";
      Kind = "bridge";
      MTUBytes = toString cfg.mtu;
    };
    systemd.network.networks."10-brkube" = {
      matchConfig.Name = "brkube";
      # Without pods the bridge has no carrier, and waiting for it would hold up the boot.
      linkConfig.RequiredForOnline = "no";
      networkConfig = {
        ConfigureWithoutCarrier = true;
        LinkLocalAddressing = false;
        IPv6AcceptRA = false;
      };
      addresses = [
        (address "${cfg.hostIp6}/32")
        (address "${cfg.hostIp4}/24")
        # For a packet that it forwards, the kernel asks for the pod's link address from a link-local address or not at
        # all (net/ipv6/ndisc.c: ndisc_send_ns): a pod that had sent nothing yet could not be reached from other nodes.
        (address "fe80::1/64")
      ];
      # kube-proxy translates a Service's address only once the host has a route to it, and a machine may have no
      # default route.
      routes = map (cidr: {
        Destination = cidr;
        PreferredSource = if kubeLib.isV6 cidr then cfg.hostIp6 else cfg.hostIp4;
      }) cfg.servicesCidrs;
    };
    # systemd's own file for all interfaces lets udev replace the random address of the host's end of a pod's link
    # (99-default.link: MACAddressPolicy=persistent). Where it comes to it after CNI, which remembers that address, CRI-O
    # refuses the pod ("Mac doesn't match") and makes it anew, again and again (github.com/cri-o/cri-o/issues/3437).
    systemd.network.links."10-kube-pods" = {
      matchConfig.OriginalName = "veth*";
      linkConfig.MACAddressPolicy = "none";
    };
    # For `bridge`.
    environment.systemPackages = [ pkgs.iproute2 ];
  };
}
