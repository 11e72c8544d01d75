#!/bin/sh
# Which of the store paths on standard input, one a line, this machine does not have: prints those.
set -eu
exec xargs -r nix-store --check-validity --print-invalid
