#!/bin/sh
# What this machine needs to boot and to be reached, as JSON: adopt.sh USER [ROOT]. Changes nothing.
set -u
user=$1
root=${2-}

hardware() {
  cat "$root/etc/nixos/hardware-configuration.nix" 2>/dev/null ||
    nixos-generate-config --show-hardware-config 2>/dev/null
}
state_version() {
  sed -n 's/^[^#]*system\.stateVersion *= *[a-zA-Z. ]*"\([0-9.]*\)".*/\1/p' "$root"/etc/nixos/*.nix 2>/dev/null | head -n 1
}
ssh_keys() { # where sshd of NixOS reads them
  home=$(getent passwd "$user" | cut -d : -f 6)
  cat "$root$home/.ssh/authorized_keys" "$root/etc/ssh/authorized_keys.d/$user" 2>/dev/null | sed '/^ *#/d'
}
loader() {
  for folder in boot boot/efi efi boot/EFI; do
    if [ -f "$root/$folder/loader/loader.conf" ]; then
      echo systemd-boot
      return
    fi
  done
  if [ -f "$root/boot/extlinux/extlinux.conf" ]; then
    echo extlinux
  elif [ -f "$root/boot/grub/grub.cfg" ] && [ -d "$root/sys/firmware/efi" ]; then
    echo grub-efi
  elif [ -f "$root/boot/grub/grub.cfg" ]; then
    echo grub
  fi
}
boot_disk() {
  source=$(findmnt --noheadings --output SOURCE --target "$root/boot" 2>/dev/null)
  lsblk -lspno NAME,TYPE "${source%%\[*}" 2>/dev/null | awk '$2 == "disk" { print $1; exit }'
}
host_name() { # NixOS has this file unless networking.hostName is empty (tasks/network-interfaces.nix)
  cat "$root/etc/hostname" 2>/dev/null
}
network() { # NAME, what `ip` is asked
  name=$1
  shift
  found=$(ip -j "$@" 2>/dev/null)
  printf ', "%s": %s' "$name" "${found:-[]}"
}
name_servers() {
  for file in run/systemd/resolve/resolv.conf etc/resolv.conf; do
    [ -f "$root/$file" ] || continue
    awk '$1 == "nameserver" && $2 !~ /^127\./ && $2 != "::1" { print $2 }' "$root/$file"
    return
  done
}

begin adopt
flag nixos test -e "$root/etc/NIXOS"
string machine "$(uname -m)"
string hardware "$(hardware)"
string state_version "$(state_version)"
list ssh_keys "$(ssh_keys)"
string loader "$(loader)"
string boot_disk "$(boot_disk)"
string host_name "$(host_name)"
network interfaces address show
network routes route show default
network routes6 -6 route show default
list name_servers "$(name_servers)"
end
