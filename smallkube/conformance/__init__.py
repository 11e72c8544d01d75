"""The official conformance tests of Kubernetes: chosen, run, recorded and reported."""
