# What this folder stands in for: a release of NixOS, and the minor of Kubernetes in its package set. lab/standins.py makes
# copies of the folder that say something else here.
{ nixos = "26.05"; kubernetes = "1.36"; }
