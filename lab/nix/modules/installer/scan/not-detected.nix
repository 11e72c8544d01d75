# A file of NixOS that hardware-configuration.nix imports: about drivers, which a lab node has no use for.
{ }
