#!/bin/sh
# Installs what the lab and the tests need on Debian. Elsewhere, or without root, it only says what is missing:
# the tasks themselves need no more than Python (`inv doctor` tells for which task the rest matters).
# Given names of packages, it installs those instead.
set -eu

packages="
  python3 python3-venv git ca-certificates
  age openssh-client openssh-server openssl wireguard-tools
  nix-bin nftables iproute2 iputils-ping procps kmod util-linux
  systemd systemd-container debootstrap debian-archive-keyring
  shellcheck strace etcd-server etcd-client jq fish tcsh
"
[ $# -eq 0 ] || packages=$*

# A machine of the lab with Kubernetes takes about twenty inotify instances, of often only 128.
instances=/proc/sys/fs/inotify/max_user_instances
if [ "$(id -u)" -eq 0 ] && [ -w "$instances" ] && [ "$(cat "$instances")" -lt 1024 ]; then
  echo "setup: fs.inotify.max_user_instances=1024 until the next boot" >&2
  echo 1024 >"$instances" || echo "setup: that was refused; the lab has room for six machines" >&2
fi

command -v dpkg-query >/dev/null || {
  # shellcheck disable=SC2086 # one word per package
  echo "setup: not Debian; install the equivalents of:" $packages >&2
  exit 0
}
missing=""
for package in $packages; do
  dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "setup: not root, so these stay missing; install them with: apt-get install$missing" >&2
  exit 0
fi
echo "setup: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# What an interrupted installation left half done would be in the way.
dpkg --configure -a >&2
apt-get update -qq
# shellcheck disable=SC2086 # one word per package
apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 $missing >&2
