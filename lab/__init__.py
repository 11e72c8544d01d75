"""The lab: a cluster's machines on this one machine, for a first look, for tests and for rehearsals.

``image`` makes the machines' root file system once, ``layer`` adds the lab's own programs, ``machine`` starts one
machine in systemd-nspawn, ``network`` joins a lab's machines and lets the operator reach them, ``cluster`` is a whole
lab with its workspace. ``node`` is what runs on the machines; ``nix`` stands in for nixpkgs there.
"""
