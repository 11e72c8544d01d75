"""What the tests verify of our own modules: an evaluation without nixpkgs, and whether its results hang together."""
