#!/bin/sh
# What changes between the running system and another one, package by package: difference.sh SYSTEM.
set -eu
exec nix --extra-experimental-features nix-command store diff-closures /run/current-system "$1"
