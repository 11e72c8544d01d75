#!/bin/sh
# Becomes a virtual machine: start-qemu.sh TAP BRIDGE QEMU ARGUMENT... in the lab's network namespace.
set -eu
tap=$1 bridge=$2
shift 2
ip link delete "$tap" 2>/dev/null || :
ip tuntap add "$tap" mode tap
ip link set "$tap" master "$bridge" up
exec "$@"
