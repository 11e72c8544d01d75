# cluster.monitoring: the metrics of everything, for one Prometheus on the primary, whoever runs it.
#
# What is on the primary alone listens on its loopback address; what is on every node, on the node's address in the
# tunnel, which the firewall opens to the primary alone (firewall.nix). Kubernetes' own programs ask for a certificate, and
# RBAC lets that of monitoring read metrics only (nix/addons/monitoring.yaml). The others (etcd, CoreDNS, kube-proxy,
# CRI-O, node exporter) have metrics without any, which show no content.
#
# NixOS's Prometheus needs no setting but services.prometheus.enable. Prometheus reads certificates and key again when
# they change (github.com/prometheus/common, config/http_config.go).
{
  config,
  kubeLib,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.kube;
  folder = "/etc/smallkube/monitoring";
  inherit (kubeLib) bracketed;
  ports = kubeLib.metricsPorts;
  join = host: port: "${bracketed host}:${toString port}";

  # instance: the node; and its target.
  target = index: targets: {
    inherit targets;
    labels.instance = "node${toString index}";
  };
  everywhere =
    port: map ({ index, ... }: target index [ (join (kubeLib.mkNodeHost index) port) ]) cfg.peers;
  here = port: [ (target cfg.nodeIndex [ (join "127.0.0.1" port) ]) ];
  identified = tls: {
    scheme = "https";
    tls_config = {
      cert_file = "${folder}/monitoring.crt";
      key_file = kubeLib.secretPath "monitoring.key";
    }
    // tls;
  };
  verified = file: identified { ca_file = file; };
  # With a certificate of its own that it makes at each start, on the loopback address.
  unverified = identified { insecure_skip_verify = true; };

  job =
    job_name: static_configs: more:
    { inherit job_name static_configs; } // more;
  plain = name: job name (everywhere ports.${name}) { };
  kubelets = verified cfg.kubeletsFile;
  jobs = [
    (job "kube-apiserver" [ (target cfg.nodeIndex [ (join cfg.api.internalHost cfg.api.port) ]) ] (
      if cfg.api.tls == "pinned" then verified "${folder}/apiserver.crt" else unverified
    ))
    (job "kube-controller-manager" (here ports.kube-controller-manager) unverified)
    (job "kube-scheduler" (here ports.kube-scheduler) unverified)
    (job "etcd" (here ports.etcd) { })
    (job "kubelet" (everywhere 10250) kubelets)
    (job "cadvisor" (everywhere 10250) (kubelets // { metrics_path = "/metrics/cadvisor"; }))
  ]
  ++ map plain [
    "coredns"
    "crio"
    "kube-proxy"
    "node"
  ];
  global = {
    scrape_interval = "30s";
    evaluation_interval = "30s";
    external_labels.cluster = cfg.clusterName;
  };
in
{
  options.kube.monitoring = lib.mkOption {
    type = lib.types.bool;
    default = false;
    description = "Whether a Prometheus on the primary can read the metrics of all components.";
  };

  config = lib.mkMerge [
    (lib.mkIf cfg.monitoring {
      kube.requiredPublic = [ "monitoring.crt" ];
      services.prometheus.exporters.node = {
        enable = lib.mkDefault true;
        listenAddress = lib.mkDefault (bracketed (lib.head cfg.hostIps));
        port = ports.node;
        enabledCollectors = [ "systemd" ];
      };
      # Its address may not be there yet.
      systemd.services.prometheus-node-exporter =
        lib.mkIf config.services.prometheus.exporters.node.enable
          {
            unitConfig = kubeLib.noStartLimit;
            serviceConfig.RestartSec = lib.mkDefault 5;
          };
    })
    (lib.mkIf (cfg.monitoring && cfg.isPrimary) {
      kube.requiredSecrets = [ "monitoring.key" ];
      # agenix gives it the key.
      users.groups.prometheus = { };
      services.prometheus = {
        scrapeConfigs = jobs;
        ruleFiles = [ ./monitoring/alerts.yaml ];
        globalConfig = lib.mapAttrs (_: lib.mkDefault) global;
        listenAddress = lib.mkDefault "127.0.0.1";
        # There is no key where it is built.
        checkConfig = lib.mkDefault "syntax-only";
      };
      environment.etc = {
        "smallkube/monitoring/monitoring.crt".source = kubeLib.publicFile "monitoring.crt";
        "smallkube/monitoring/apiserver.crt" = lib.mkIf (cfg.api.tls == "pinned") {
          source = kubeLib.trustBundle [ "apiserver.crt" ];
        };
        "smallkube/monitoring/alerts.yaml".source = ./monitoring/alerts.yaml;
        "smallkube/monitoring/dashboard.json".source = ./monitoring/dashboard.json;
        # JSON is YAML.
        "smallkube/monitoring/prometheus.yaml".source = pkgs.writeText "prometheus.yaml" (
          builtins.toJSON {
            inherit global;
            rule_files = [ "${folder}/alerts.yaml" ];
            scrape_configs = jobs;
          }
        );
      };

      # etcd has a network of its own; systemd holds the port for it.
      systemd.sockets.etcd-metrics = {
        description = "Metrics of etcd";
        wantedBy = [ "sockets.target" ];
        listenStreams = [ (join "127.0.0.1" ports.etcd) ];
      };
      systemd.services.etcd-metrics = {
        description = "Metrics of etcd";
        after = [ "etcd.service" ];
        unitConfig = kubeLib.noStartLimit;
        serviceConfig = lib.mkMerge [
          kubeLib.hardening
          {
            DynamicUser = true;
            Group = "etcd";
            PrivateNetwork = true;
            RestrictAddressFamilies = "AF_UNIX";
            ExecStart = "${config.systemd.package}/lib/systemd/systemd-socket-proxyd /run/etcd/metrics";
          }
        ];
      };
    })
  ];
}
