#!/bin/sh
# Makes what virtual machines start from: build-disk.sh FOLDER LOWER BOOT SIZE
# FOLDER gets vmlinuz (Debian's kernel for clouds) and disk.img (ext4 of SIZE: the folders LOWER, separated by colons, with
# that kernel's modules, udev, and BOOT as the program that the kernel starts).
# Runs in mount and process namespaces of its own, so that whatever interrupts it leaves no mount and no process.
# Standard input: apt's settings for reaching the mirror from here (see packages.sh).
set -eu
folder=$1 lower=$2 boot=$3 size=$4
root=$folder/root

step() { echo "step: $*"; }
# shellcheck source=lab/packages.sh
. "${0%/*}/packages.sh"

mkdir "$root" "$folder/upper" "$folder/work"
mount -t overlay -o "lowerdir=$lower,upperdir=$folder/upper,workdir=$folder/work" overlay "$root"

step "kernel"
open_root
install_in_root udev
kernel=$(in_root apt-cache depends --no-recommends --no-suggests linux-image-cloud-amd64 |
  sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p')
# Unpacked, not installed: what it depends on makes an initramfs, which a disk on NVMe with ext4 does not need.
in_root env -C /tmp apt-get -qq download "$kernel"
dpkg-deb --extract "$root/tmp/$kernel"_*.deb "$root"
rm "$root/tmp/$kernel"_*.deb
# A machine that QEMU translates would take half a second to unpack each.
find "$root/usr/lib/modules" -name '*.ko.xz' -exec xz --decompress {} +
in_root depmod "${kernel#linux-image-}"
mv "$root"/boot/vmlinuz-* "$folder/vmlinuz"
rm -f "${root:?}"/boot/*
install -m 0755 "$boot" "$root/usr/sbin/lab-boot"
close_root

step "disk"
mkfs.ext4 -q -E root_owner=0:0 -d "$root" "$folder/disk.img" "$size"
umount "$root"
rm -rf "$folder/upper" "$folder/work" "$root"
