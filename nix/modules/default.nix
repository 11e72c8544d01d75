# All modules, on every node; what only the primary does is guarded by kube.role inside them.
{
  imports = [
    ./base.nix
    ./addressing.nix
    ./peers.nix
    ./hosts.nix
    ./bridge.nix
    ./wireguard.nix
    ./firewall.nix
    ./secrets.nix
    ./hardening.nix
    ./api.nix
    ./etcd.nix
  ];
}
