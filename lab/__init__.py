"""The lab: a cluster's machines on this one machine, for first steps, for tests and for drills.

``image`` makes the machines' root file system once, ``layer`` adds the lab's own programs, ``machine`` is one machine,
in systemd-nspawn (``nspawn``) or QEMU (``qemu``, from a ``disk``), ``network`` joins a lab's machines and lets the
operator reach them, ``cluster`` is a whole lab with its workspace. ``node`` is what runs on the machines; ``nix``
stands in for nixpkgs there.
"""
