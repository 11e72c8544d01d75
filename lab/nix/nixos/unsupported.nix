# What is set and has no effect in the lab. An option that the lab does not know at all is an error when one of our
# modules or a rendered file sets it (a misspelt name must not pass), and is listed when the machine's own file
# (nix/hosts) does: there it is most likely a NixOS option about hardware or services that a lab node has not.
{ config, options, lib, ... }:
let
  # Declared so that modules can read and set them; nothing acts on them.
  declaredOnly = [
    [ "boot" "loader" "grub" "enable" ]
    [ "boot" "loader" "systemd-boot" "enable" ]
    [ "networking" "domain" ]
    [ "networking" "enableIPv6" ]
    [ "networking" "networkmanager" "enable" ]
    [ "networking" "useDHCP" ]
    [ "services" "prometheus" "enable" ]
    [ "services" "userborn" "enable" ]
    [ "systemd" "network" "wait-online" "anyInterface" ]
    [ "systemd" "network" "wait-online" "enable" ]
    [ "systemd" "network" "wait-online" "extraArgs" ]
    [ "systemd" "network" "wait-online" "ignoredInterfaces" ]
    [ "systemd" "network" "wait-online" "timeout" ]
    [ "systemd" "sysusers" "enable" ]
    [ "users" "mutableUsers" ]
    [ "virtualisation" "cri-o" "extraPackages" ]
  ] ++ declared [ ] (import ../options/hardware.nix { inherit config lib; }).options;
  declared = path: set: lib.concatLists (lib.mapAttrsToList
    (name: each: let here = path ++ [ name ]; in if lib.isOption each then [ here ] else declared here each)
    set);
  isSet = path:
    let option = lib.attrByPath path { isDefined = false; } options; in
    option.isDefined && option.highestPrio < (lib.mkOptionDefault null).priority;

  perUser = [ "hashedPassword" "hashedPasswordFile" "initialHashedPassword" "initialPassword" "password" ];
  users = lib.concatLists (lib.mapAttrsToList
    (name: user: map (key: "users.users.${name}.${key}") (builtins.filter (key: user.${key} != null) perUser)
      ++ lib.optional (user.homeMode != "700") "users.users.${name}.homeMode"
      ++ lib.optional user.linger "users.users.${name}.linger"
      ++ lib.optional (user.packages != [ ]) "users.users.${name}.packages")
    config.users.users);

  # The paths of the options that a set of definitions sets.
  leaves = path: value:
    if builtins.isAttrs value && value ? _type
    then lib.concatMap (leaves path) (value.contents or (lib.optional (value ? content) value.content))
    else if builtins.isAttrs value && !(lib.isDerivation value) && value != { }
    then lib.concatLists (lib.mapAttrsToList (name: leaves (path ++ [ name ])) value)
    else [ (lib.showOption path) ];
  unknown = config.lab.unknownDefinitions or [ ];
  ofHost = def: lib.hasInfix "/nix/hosts/" (toString def.file);
  ours = builtins.filter (def: !ofHost def) unknown;
  first = builtins.head ours;
in
{
  config.system.build.unsupported =
    if ours != [ ]
    then throw "The option `${lib.concatStringsSep "', `" (leaves [ ] first.value)}' does not exist, or the lab does not know it. Defined in `${toString first.file}'"
    else builtins.sort builtins.lessThan (lib.unique (map lib.showOption (builtins.filter isSet declaredOnly)
      # A lab node is called by its own name.
      ++ lib.optional (isSet [ "networking" "hostName" ] && config.networking.hostName != config.system.build.description.node) "networking.hostName"
      ++ users
      ++ lib.concatMap (def: leaves [ ] def.value) unknown));
}
