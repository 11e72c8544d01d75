"""The Nix configuration: render it from the inventory, check it."""
