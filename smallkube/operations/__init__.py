"""The runbooks: rotations, revocation, rebuilding, upgrades, reboots, and the cluster's status."""
