# What nix.check examines of one node: `nix eval FLAKE#nixosConfigurations.NODE --apply`. Only options of NixOS are read
# (and what stands in for it says of itself), and only what the workspace's own files define is named as its own: NixOS answers for the rest.
{ config, options, ... }:
let
  inherit (builtins) attrNames attrValues concatMap concatStringsSep elem filter getContext isString listToAttrs mapAttrs match;

  definitions = option:
    filter (definition: match ".*/nix/(modules|hosts|rendered)/.*" (toString definition.file) != null)
      option.definitionsWithLocations;
  own = suffix: option:
    concatMap (definition: map (name: name + suffix) (attrNames definition.value)) (definitions option);
  select = names: set: listToAttrs (map (name: { inherit name; value = set.${name}; }) (filter (name: set ? ${name}) names));

  # A unit that is only disabled has none.
  textOf = unit: if unit.text == null then "" else unit.text;
  units = options.systemd;
  ownUnits =
    own "" units.units ++ own ".service" units.services ++ own ".target" units.targets ++ own ".timer" units.timers
    ++ own ".socket" units.sockets ++ own ".path" units.paths ++ own ".slice" units.slices;
  ownNetwork =
    own ".network" units.network.networks ++ own ".netdev" units.network.netdevs ++ own ".link" units.network.links;
  # A script is text, or a set with it.
  activation = mapAttrs (_: script: if isString script then script else script.text)
    (select (own "" options.system.activationScripts) config.system.activationScripts);
  etc = select (own "" options.environment.etc) config.environment.etc;

  nftables = config.networking.nftables;
  table = entry: "table ${entry.family} ${entry.name} {\n${entry.content}\n}\n";
  failedAssertions = map (entry: entry.message) (filter (entry: !entry.assertion) config.assertions);
  texts =
    map textOf (attrValues (select ownUnits config.systemd.units))
    ++ attrValues activation
    ++ map (file: if file.text or null == null then toString (file.source or "") else file.text) (attrValues etc);

  loaders = [ "systemd-boot" "generic-extlinux-compatible" "initScript" "external" "limine" "refind" ];
  grub = config.boot.loader.grub or { };
  # It is enabled by default, and does nothing without a disk.
  hasGrub = grub.enable or false && (grub.device or "" != "" || grub.devices or [ ] != [ ] || grub.mirroredBoots or [ ] != [ ]);
  hasLoader = hasGrub || builtins.any (name: config.boot.loader.${name}.enable or false) loaders;
  hasKey = user: user.openssh.authorizedKeys.keys != [ ] || user.openssh.authorizedKeys.keyFiles != [ ];
  unless = condition: text: if condition then [ ] else [ text ];
in
{
  # The NixOS that evaluates this; "": something else, which does not know the options in `unknown`.
  nixos = config.system.nixos.version or "";
  unknown = config.system.build.unsupported or [ ];
  lacking =
    if config.boot.isContainer then [ ] else
    unless (config.fileSystems or { } ? "/") "no file system"
    ++ unless hasLoader "no boot loader"
    ++ unless (builtins.any hasKey (attrValues config.users.users)) "no authorized SSH key";
  # What disko erases.
  disks = mapAttrs (_: disk: disk.device) (config.disko.devices.disk or { });
  inherit failedAssertions;
  inherit (config) warnings;
  # The derivation that is deployed; a failed assertion throws here.
  system = if failedAssertions == [ ] then config.system.build.toplevel.drvPath else null;
  units = mapAttrs
    (name: unit: {
      inherit (unit) enable;
      text = textOf unit;
      own = elem name ownUnits;
      dropin = unit.overrideStrategy == "asDropin" || match "systemd-.*" name != null;
    })
    config.systemd.units;
  networkd = mapAttrs (name: file: { inherit (file) text; own = elem name ownNetwork; }) config.systemd.network.units;
  nftables =
    if nftables.enable
    then concatStringsSep "" (map table (filter (entry: entry.enable) (attrValues nftables.tables))) + nftables.ruleset
    else "";
  activationScripts = activation;
  # The derivations that the own texts name, among them the scripts made for them.
  derivations = concatMap (text: attrNames (getContext text)) texts;
}
