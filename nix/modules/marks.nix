# Labels and taints of the inventory. A kubelet sets its taints only when it registers, and not all labels at all, so the
# primary sets both (addons.nix: kube-node-roles), and removes what the inventory had before.
{
  config,
  kubeLib,
  lib,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.kube;
  standard = "node-role.kubernetes.io/control-plane:NoSchedule";
  node = "node${toString cfg.nodeIndex}";

  # What there can be only one of: a label's key, a taint's key and effect.
  nameOf =
    mark:
    let
      words = lib.splitString ":" mark;
    in
    lib.concatStringsSep ":" ([ (lib.head (lib.splitString "=" (lib.head words))) ] ++ lib.tail words);
  lines =
    kind: marks:
    lib.concatStrings (
      lib.concatLists (
        lib.mapAttrsToList (
          name: map (mark: "${kind} ${name}.${cfg.domain} ${nameOf mark} ${mark}\n")
        ) marks
      )
    );
  # "-": the kubelet's own, which is not ours to set again.
  registered = "taint ${kubeLib.mkNodeHost 1} ${standard} -\n";
  marks =
    lib.optionalString (!cfg.taints ? node1) registered
    + lines "label" cfg.labels
    + lines "taint" cfg.taints;
in
{
  options.kube = {
    labels = mkOption {
      type = types.attrsOf (types.listOf types.str);
      default = { };
      example = {
        node2 = [ "disk=ssd" ];
      };
      description = "Labels of nodes, as KEY=VALUE, by the names of the inventory.";
    };
    taints = mkOption {
      type = types.attrsOf (types.listOf types.str);
      default = { };
      example = {
        node1 = [ ];
        node2 = [ "gpu=yes:NoSchedule" ];
      };
      description = "Taints of nodes, as KEY=VALUE:EFFECT; the primary registers with the standard one unless it is named here.";
    };
    registeredTaints = mkOption {
      type = types.listOf types.str;
      internal = true;
      readOnly = true;
      default = cfg.taints.${node} or (lib.optional cfg.isPrimary standard);
      description = "With which this node registers.";
    };
    marksScript = mkOption {
      type = types.lines;
      internal = true;
      readOnly = true;
      default = ''
        previous=$STATE_DIRECTORY/marks
        marks=${lib.escapeShellArg marks}
        [ -e "$previous" ] || printf ${lib.escapeShellArg registered} >"$previous"
        names() { cut -d " " -f 1-3 "$1" | sort; }
        comm -23 <(names "$previous") <(names <(printf %s "$marks")) | while read -r kind node name; do
          # Fails where it, or the node, is removed already.
          kubectl --request-timeout=60s "$kind" node "$node" "$name-" || true
        done
        registered=
        if [ "$marks" != ${lib.escapeShellArg registered} ]; then
          registered=" $(kubectl --request-timeout=60s get nodes --output='jsonpath={.items[*].metadata.name}') "
        fi
        while read -r kind node _ mark; do
          if [ "$mark" != - ] && [ "$registered" != "''${registered/ $node /}" ]; then
            kubectl --request-timeout=60s "$kind" --overwrite node "$node" "$mark"
          fi
        done < <(printf %s "$marks")
        printf %s "$marks" >"$previous"
      '';
      description = "Sets labels and taints with root's kubeconfig.";
    };
  };
}
