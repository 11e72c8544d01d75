"""smallkube: a small, vanilla, multi-node Kubernetes on NixOS, from one inventory."""

__version__ = "0.1.0"
