#!/bin/sh
# Becomes the process that keeps a lab's network: start-hub.sh BRIDGE ADDRESS, in a new network namespace.
set -eu
ip link set lo up
ip link add "$1" type bridge forward_delay 0
ip address add "$2" dev "$1"
ip link set "$1" up
exec sleep infinity
