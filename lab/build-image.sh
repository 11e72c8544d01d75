#!/bin/sh
# Makes the root file system of a lab machine: build-image.sh ROOT SUITE MIRROR KEYRING PACKAGE...
# Runs in mount and process namespaces of its own, so that whatever interrupts it leaves no mount and no process.
# Standard input: apt's settings for reaching the mirror from here (see packages.sh).
set -eu
root=$1 suite=$2 mirror=$3 keyring=$4
shift 4

step() { echo "step: $*"; }
# shellcheck source=lab/packages.sh
. "${0%/*}/packages.sh"

step "base system from $mirror"
debootstrap --variant=minbase --keyring="$keyring" "$suite" "$root" "$mirror"

step "packages"
cat > "$root/etc/dpkg/dpkg.cfg.d/lab" <<'END'
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/man/*
END
open_root
install_in_root "$@"

step "settings"
# What the configuration of a machine may switch on must not run before it does.
in_root systemctl --quiet disable etcd.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
  fstrim.timer e2scrub_all.timer e2scrub_reap.service remote-fs.target || :
in_root systemctl --quiet mask sshd-keygen.service getty@tty1.service console-getty.service
in_root systemctl --quiet enable ssh.service systemd-networkd.service systemd-resolved.service
in_root systemctl --quiet disable systemd-networkd-wait-online.service
mkdir -p "$root/etc/nix" "$root/etc/ssh/sshd_config.d" "$root/etc/sudoers.d" "$root/nix"
cat > "$root/etc/nix/nix.conf" <<'END'
# A lab machine has no internet: everything is built here, from what is here.
experimental-features = nix-command flakes
build-users-group =
sandbox = false
substituters =
flake-registry =
connect-timeout = 1
END
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin
cat > "$root/etc/ssh/sshd_config.d/lab.conf" <<END
SetEnv PATH=$path
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
UseDNS no
AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/authorized_keys.d/%u
MaxStartups 100
END
in_root useradd --create-home --shell /bin/bash admin
printf 'Defaults secure_path="%s"\nadmin ALL=(ALL) NOPASSWD: ALL\n' "$path" > "$root/etc/sudoers.d/lab"
chmod 0440 "$root/etc/sudoers.d/lab"
# A folder that comes from the image can't be renamed on an overlay, as a restore of etcd does.
rm -rf "$root/var/lib/etcd"
close_root
