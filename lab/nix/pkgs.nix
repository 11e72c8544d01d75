# A stand-in for the package set. A package is a folder under `sw` of the lab node (/opt/smallkube-lab/pkgs/NAME, made
# by the lab from the node's own programs); nothing is built for it. Texts and scripts that modules generate are real
# store paths, so that what `nix build` makes on a lab node contains them; evaluating alone builds nothing, but it can
# report each text that it comes to need (`record` names the node): a store path alone does not tell what stands in it.
{ lib, system ? "x86_64-linux", sw ? "/opt/smallkube-lab/pkgs", record ? null, minor ? (import ./release.nix).kubernetes }:
let
  kubernetes = (import ./kubernetes.nix).${minor};
  recorded = path: executable: text:
    if record == null then path
    else builtins.trace "smallkube-text ${builtins.toJSON { node = record; inherit path executable text; }}" path;

  versions = {
    kubernetes = kubernetes.version;
    etcd = "3.6.6";
    etcd_3_6 = "3.6.6";
    coredns = "1.13.1";
    cri-o = "1.34.0";
    systemd = "258.2";
    nix = "2.31.2";
  };
  programs = {
    kubernetes = "kubectl";
    nftables = "nft";
    wireguard-tools = "wg";
    coreutils = "coreutils";
    findutils = "find";
    gnugrep = "grep";
    gnused = "sed";
    cri-o = "crio";
    cri-tools = "crictl";
    conntrack-tools = "conntrack";
    bridge-utils = "brctl";
    iproute2 = "ip";
    openssh = "ssh";
    procps = "ps";
    gawk = "awk";
    util-linux = "mount";
    shadow = "useradd";
    systemd = "systemctl";
    dnsutils = "dig";
    iptables = "iptables";
    runtimeShellPackage = "bash";
    bashInteractive = "bash";
  };
  names = [
    "age" "bash" "bashInteractive" "bind" "bridge-utils" "cacert" "cni-plugin-flannel" "cni-plugins" "conmon" "conntrack-tools"
    "containerd" "coredns" "coreutils" "cri-o" "cri-o-unwrapped" "cri-tools" "crun" "curl" "diffutils" "dig" "dnsutils" "e2fsprogs"
    "etcd" "etcd_3_6" "ethtool" "findutils" "gawk" "getent" "gettext" "git" "glibc" "gnugrep" "gnused" "gnutar" "gzip" "hostname" "iproute2" "iptables"
    "iputils" "jq" "kmod" "kubectl" "kubernetes" "less" "mount" "nano" "nettools" "nftables" "nix" "openssh" "openssl" "procps"
    "prometheus-node-exporter"
    "python3" "rsync" "runc" "shadow" "socat" "sudo" "systemd" "tcpdump" "tzdata" "umount" "unzip" "util-linux" "vim"
    "wget" "wireguard-go" "wireguard-tools" "xz" "yq" "zstd"
  ];

  placed = name: {
    inherit name system;
    type = "derivation";
    pname = name;
    version = versions.${name} or "lab";
    outPath = "${sw}/${name}";
    outputName = "out";
    meta.mainProgram = programs.${name} or name;
    override = _: placed name;
    overrideAttrs = _: placed name;
  };

  shell = "${sw}/bash/bin/bash";
  # The build itself runs the node's own shell: the tools of `sw` are for what the scripts do at run time.
  build = name: script: attrs: derivation ({
    inherit name system;
    builder = "/bin/sh";
    args = [ "-euc" "PATH=/usr/bin:/bin; export PATH\n${script}" ];
    preferLocalBuild = true;
    allowSubstitutes = false;
  } // attrs);

  # A store path with this text. toFile can't refer to what is still to be built, a small derivation can.
  writeTextFile = { name, text, executable ? false, destination ? "", meta ? { }, passthru ? { }, ... }:
    let
      needsBuild = executable || destination != ""
        || builtins.any (entry: entry ? outputs) (builtins.attrValues (builtins.getContext text));
      clean = lib.strings.sanitizeDerivationName name;
      built = build clean
        ''mkdir -p "$(dirname "$out${destination}")"; cp "$textPath" "$out${destination}"; chmod ${if executable then "0555" else "0444"} "$out${destination}"''
        { inherit text; passAsFile = [ "text" ]; };
      outPath = recorded (if needsBuild then built.outPath else builtins.toFile clean text) executable text;
    in
    passthru // {
      inherit meta text executable outPath;
      type = "derivation";
      name = clean;
      pname = clean;
      program = "${outPath}${destination}";
    } // lib.optionalAttrs needsBuild { inherit (built) drvPath; };

  self = lib.genAttrs names placed // {
    kubernetes = placed "kubernetes" // { outPath = "${sw}/${kubernetes.folder}"; };
    inherit lib system writeTextFile;
    pkgs = self;
    path = ./.;
    inherit (self.stdenv) hostPlatform;
    stdenv = {
      inherit system;
      hostPlatform = { inherit system; isLinux = true; isx86_64 = system == "x86_64-linux"; isAarch64 = system == "aarch64-linux"; };
      cc = placed "gcc";
    };
    buildPackages = self;
    runtimeShell = shell;
    runtimeShellPackage = self.bash;
    coreutils-full = self.coreutils;
    utillinux = self.util-linux;
    callPackage = f: args:
      let function = if builtins.isPath f then import f else f; in
      function (builtins.intersectAttrs (builtins.functionArgs function) self // args);

    writeText = name: text: writeTextFile { inherit name text; };
    writeTextDir = destination: text: writeTextFile { name = baseNameOf destination; inherit text; destination = "/${destination}"; };
    writeScript = name: text: writeTextFile { inherit name text; executable = true; };
    writeScriptBin = name: text: writeTextFile { inherit name text; executable = true; destination = "/bin/${name}"; meta.mainProgram = name; };
    writeShellScript = name: text: self.writeScript name "#!${shell}\n${text}";
    writeShellScriptBin = name: text: self.writeScriptBin name "#!${shell}\n${text}\n";
    writeShellApplication = { name, text, runtimeInputs ? [ ], runtimeEnv ? null, bashOptions ? [ "errexit" "nounset" "pipefail" ], inheritPath ? true, meta ? { }, ... }:
      writeTextFile {
        inherit name;
        executable = true;
        destination = "/bin/${name}";
        meta = { mainProgram = name; } // meta;
        text = ''
          #!${shell}
          ${lib.concatMapStringsSep "\n" (option: "set -o ${option}") bashOptions}
        '' + lib.optionalString (runtimeEnv != null)
          (lib.concatStrings (lib.mapAttrsToList (key: value: "${lib.strings.toShellVar key value}\nexport ${key}\n") runtimeEnv))
        + lib.optionalString (runtimeInputs != [ ])
          ''

            export PATH="${lib.makeBinPath runtimeInputs}${lib.optionalString inheritPath ":$PATH"}"
          ''
        + "\n${text}\n";
      };
    runCommand = name: attrs: script: build name script attrs;
    runCommandLocal = self.runCommand;
    symlinkJoin = { name, paths, ... }: build name
      (lib.concatMapStrings (path: ''mkdir -p "$out"; cp -rs ${path}/. "$out/"
      '') paths)
      { };
    linkFarm = name: entries:
      let list = if builtins.isAttrs entries then lib.mapAttrsToList (name: path: { inherit name path; }) entries else entries; in
      build name (lib.concatMapStrings (entry: ''mkdir -p "$(dirname "$out/${entry.name}")"; ln -s ${entry.path} "$out/${entry.name}"
      '') list)
        { };
    formats = import ./formats.nix { inherit lib; pkgs = self; };
  };
in
self
