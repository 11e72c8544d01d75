# The API server's serving key and certificate: those that keys.generate made and every client pins, or, with
# api.tls = "insecure", a pair that the primary makes once and no client verifies.
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
  names = [
    cfg.api.externalHost
    cfg.api.internalHost
    "kubernetes"
    "kubernetes.default"
    "kubernetes.default.svc"
    "kubernetes.default.svc.${cfg.domain}"
  ];
  addresses = [
    cfg.api.serviceIp
    cfg.hostIp6
    cfg.hostIp4
  ];
  alternatives = lib.concatStringsSep "," (
    map (name: "DNS:${name}") names ++ map (address: "IP:${address}") addresses
  );
  pinned = cfg.api.tls == "pinned";
in
{
  options.kube.apiserver = {
    certificate = mkOption {
      type = types.str;
      internal = true;
      readOnly = true;
      default =
        if pinned then kubeLib.publicFile "apiserver.crt" else "/var/lib/kube-apiserver/insecure.crt";
      description = "The certificate in use.";
    };
    trusted = mkOption {
      type = types.str;
      internal = true;
      readOnly = true;
      default =
        if pinned then
          "${kubeLib.trustBundle [ "apiserver.crt" ]}"
        else
          "/var/lib/kube-apiserver/insecure.crt";
      description = "What clients are given to check it.";
    };
    key = mkOption {
      type = types.str;
      internal = true;
      readOnly = true;
      # %d is the folder of the unit's credentials (systemd.unit(5)).
      default = if pinned then "%d/apiserver.key" else "/var/lib/kube-apiserver/insecure.key";
      description = "Its key, as the unit sees it.";
    };
    makeCertificate = mkOption {
      type = types.package;
      internal = true;
      readOnly = true;
      default = pkgs.writeShellApplication {
        name = "kube-apiserver-certificate";
        runtimeInputs = [
          pkgs.coreutils
          pkgs.openssl
        ];
        text = ''
          cd /var/lib/kube-apiserver
          if [ -s insecure.key ] && [ -s insecure.crt ]; then
            exit 0
          fi
          umask 077
          openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -sha256 \
            -subj /CN=kube-apiserver \
            -addext ${lib.escapeShellArg "subjectAltName=${alternatives}"} \
            -addext extendedKeyUsage=serverAuth \
            -addext basicConstraints=critical,CA:FALSE \
            -keyout insecure.key.new -out insecure.crt.new
          mv -fT insecure.key.new insecure.key
          mv -fT insecure.crt.new insecure.crt
        '';
      };
      description = "Makes the pair of api.tls = \"insecure\" where there is none yet.";
    };
  };

  config.kube.requiredSecrets = lib.optional (cfg.isPrimary && pinned) "apiserver.key";
}
