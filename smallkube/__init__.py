"""smallkube: a small, vanilla, multi-node Kubernetes on NixOS, from one inventory."""
