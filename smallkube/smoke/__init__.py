"""Does the cluster work? Checks of the paths that matter, which clean up after themselves."""
