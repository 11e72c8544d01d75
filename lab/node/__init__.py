"""What runs on a lab machine, in place of NixOS' own programs: it makes a system out of a description and applies it.

The description (JSON) is what the configuration evaluates to. ``toplevel`` turns it into a system in the Nix store;
``activation`` and ``switch`` make such a system the running one, by the rules of NixOS' switch-to-configuration. What
can't be applied here is reported (``report``), never ignored.
"""
