# shellcheck shell=sh disable=SC2154 # root is set by who sources this
# Debian's packages into a root file system that no machine runs yet: sourced by build-image.sh and build-disk.sh, which
# have mount and process namespaces of their own.

in_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }

# Lets apt in $root reach the mirror. Standard input: apt's settings for that (proxy, time-outs) from here; close_root
# removes them again.
open_root() {
  cat > "$root/etc/apt/apt.conf.d/99-lab-build"
  for file in auth.conf auth.conf.d ca-certificates.crt; do
    case $file in
      ca-certificates.crt) source=/etc/ssl/certs/$file target=$root/etc/ssl/certs ;;
      *) source=/etc/apt/$file target=$root/etc/apt ;;
    esac
    [ ! -e "$source" ] || { mkdir -p "$target" && cp -rL "$source" "$target/"; }
  done
  rm -f "$root/etc/resolv.conf"
  cat /etc/resolv.conf > "$root/etc/resolv.conf"
  printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
  chmod 0755 "$root/usr/sbin/policy-rc.d"
  mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
  in_root apt-get -qq update
}

install_in_root() { in_root apt-get -qq -o Dpkg::Use-Pty=0 install --yes --no-install-recommends "$@"; }

close_root() {
  rm -f "$root"/etc/ssh/ssh_host_* "$root/usr/sbin/policy-rc.d" "$root/etc/apt/apt.conf.d/99-lab-build"
  rm -rf "$root/etc/apt/auth.conf" "$root/etc/apt/auth.conf.d" "$root"/var/lib/apt/lists "$root"/var/cache/apt "$root"/var/log/*.log
  : > "$root/etc/machine-id"
  rm -f "$root/etc/resolv.conf" "$root/etc/hostname"
  ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
  umount "$root/proc"
}
