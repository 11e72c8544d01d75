"""What stands in for an installed NixOS on a machine of the lab before its first deploy: the files that are read there.

The machine is Debian. These files are as NixOS and nixos-generate-config would have left them; nothing of the lab acts
on them.
"""

import platform
from collections.abc import Mapping

HARDWARE = """\
# Stands in for what nixos-generate-config finds of this machine of the lab.
{{ lib, ... }}:
{{
{found}
  nixpkgs.hostPlatform = lib.mkDefault "{system}";
}}
"""
CONFIGURATION = """\
# Stands in for what was configured when NixOS was installed on this machine of the lab.
{{ ... }}:
{{
  imports = [ ./hardware-configuration.nix ];
  networking.hostName = "{name}";
  services.openssh.enable = true;
  system.stateVersion = "25.11";
}}
"""


def files(name: str, found: str) -> Mapping[str, str]:
    """File in /etc → content, of the machine called ``name``; ``found``: lines about its hardware."""
    return {
        "NIXOS": "",
        "nixos/hardware-configuration.nix": HARDWARE.format(found=found, system=f"{platform.machine()}-linux"),
        "nixos/configuration.nix": CONFIGURATION.format(name=name),
    }
