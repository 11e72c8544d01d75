# keys/peers.json: the nodes of the cluster with their WireGuard public keys and addresses, in the order of their
# indices. A removed node leaves null behind, so that no node is renumbered; keys that we don't know are left alone.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.kube;
  entries =
    if builtins.pathExists cfg.peersFile then
      builtins.fromJSON (builtins.readFile cfg.peersFile)
    else
      [ ];
  numbered = lib.imap1 (index: entry: { inherit index entry; }) entries;
  present = lib.filter ({ entry, ... }: entry != null) numbered;
  peer = types.submodule {
    options = {
      index = mkOption {
        type = types.ints.positive;
        description = "Index of the node.";
      };
      PublicKey = mkOption {
        type = types.str;
        description = "Its WireGuard public key.";
      };
      PeerIP = mkOption {
        type = types.str;
        description = "The address under which the other nodes reach it.";
      };
    };
  };
  distinct =
    key:
    let
      values = map (peer: peer.${key}) cfg.peers;
    in
    lib.unique values == values;
in
{
  options.kube = {
    peersFile = mkOption {
      type = types.path;
      description = "JSON array ordered by node index: {\"PublicKey\": …, \"PeerIP\": …}, or null for a removed node.";
    };
    peers = mkOption {
      type = types.listOf peer;
      internal = true;
      readOnly = true;
      default = map ({ index, entry }: {
        inherit index;
        inherit (entry) PublicKey PeerIP;
      }) present;
      description = "All nodes, this one included, in the order of their indices.";
    };
  };

  # What a deploy compares, to tell which machines have yet to learn of a change that concerns all of them.
  config.environment.etc."smallkube/peers.json".source = cfg.peersFile;

  config.assertions = [
    {
      assertion = builtins.pathExists cfg.peersFile;
      message = "keys/peers.json is missing; run: inv keys.generate";
    }
    {
      assertion = lib.elem cfg.nodeIndex (map (peer: peer.index) cfg.peers);
      message = "keys/peers.json has no entry for node${toString cfg.nodeIndex}; run: inv keys.generate";
    }
    {
      assertion = distinct "PublicKey" && distinct "PeerIP";
      message = "keys/peers.json: two nodes have the same PublicKey or PeerIP";
    }
    {
      # They end up in firewall rules, where a name would be resolved once and anything else would be a syntax error.
      assertion = lib.all (peer: builtins.match "[0-9A-Fa-f:.]+" peer.PeerIP != null) cfg.peers;
      message = "keys/peers.json: each PeerIP must be an IPv4 or IPv6 address";
    }
  ];
}
