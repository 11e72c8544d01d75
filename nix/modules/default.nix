# All modules, on every node; what only the primary does is guarded by kube.role inside them.
{
  imports = [
    ./lib.nix
    ./base.nix
    ./addressing.nix
    ./peers.nix
    ./hosts.nix
    ./bridge.nix
    ./wireguard.nix
    ./firewall.nix
    ./secrets.nix
    ./api.nix
    ./kubeconfig.nix
    ./etcd.nix
    ./apiserver-tokens.nix
    ./apiserver-tls.nix
    ./apiserver.nix
    ./addons.nix
    ./scheduler.nix
    ./controller-manager.nix
    ./coredns.nix
    ./kube-proxy.nix
    ./cri-o.nix
    ./kubelet-api.nix
    ./kubelet.nix
  ];
}
