"""Reaching the nodes: commands as values, connections with strict host keys, many nodes at once, the bundle."""
