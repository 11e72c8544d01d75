# shellcheck shell=sh
# Whether NixOS may be installed on this machine: it is no node of a cluster, and has the DISKS.
#   installable.sh [DISK…] → exit status: 0, 3 (it runs units of a node, which are printed), 4 (a disk is missing)
# The machine runs any Linux, with any shell and without lib.sh: POSIX only.
running=
for unit in kubelet.service kube-apiserver.service etcd.service; do
    if systemctl --quiet is-active "$unit" 2>/dev/null; then running="$running $unit"; fi
done
if [ -n "$running" ]; then
    echo "$running"
    exit 3
fi
for disk in "$@"; do
    if ! [ -b "$disk" ]; then
        echo "$disk"
        exit 4
    fi
done
