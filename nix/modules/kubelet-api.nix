# Who may talk to a kubelet, and how the API server knows that it talks to the right one.
#
# webhook: the API server shows a client certificate, which kubelets trust as the only one beside that of monitoring, and
# the cluster's own rules decide (nix/addons/kubelet-api-admin.yaml). firewall: kubelets authorize every request, and only the firewall
# stands before them; any local user and any pod in the host's network can then run commands in every pod of the node.
# In both cases the API server accepts exactly the nodes' own certificates.
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
  webhook = cfg.kubeletAuth == "webhook";
  certificate = { index, ... }: "kubelet_node${toString index}.crt";
in
{
  options.kube = {
    kubeletAuth = mkOption {
      type = types.enum [
        "webhook"
        "firewall"
      ];
      default = "webhook";
      description = "What protects the kubelets' own API.";
    };
    kubeletCertificates = mkOption {
      type = types.path;
      internal = true;
      readOnly = true;
      default = pkgs.writeText "kubelets.crt" (
        lib.concatMapStrings (
          peer: "# node${toString peer.index}\n" + kubeLib.trustText [ (certificate peer) ]
        ) cfg.peers
      );
      description = "The serving certificates of all kubelets, those of each after a line with its node.";
    };
  };

  config.kube = {
    kubeletSettings = lib.mkMerge [
      (kubeLib.deepDefaults {
        authentication = {
          anonymous.enabled = !webhook;
          webhook.enabled = webhook;
        };
        authorization.mode = if webhook then "Webhook" else "AlwaysAllow";
      })
      (lib.mkIf webhook (
        kubeLib.deepDefaults {
          authentication.x509.clientCAFile = "${
            kubeLib.trustBundle ([ "kubelet-client.crt" ] ++ lib.optional cfg.monitoring "monitoring.crt")
          }";
        }
      ))
    ];
    requiredPublic =
      lib.optional webhook "kubelet-client.crt" ++ lib.optionals cfg.isPrimary (map certificate cfg.peers);
  };
}
