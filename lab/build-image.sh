#!/bin/sh
# Makes the root file system of a lab machine: build-image.sh ROOT SUITE MIRROR KEYRING PACKAGE...
# Runs in mount and process namespaces of its own, so that whatever interrupts it leaves no mount and no process.
# Standard input: apt's settings for reaching the mirror (proxy, time-outs) from here; they don't stay in the image.
set -eu
root=$1 suite=$2 mirror=$3 keyring=$4
shift 4

step() { echo "step: $*"; }

step "base system from $mirror"
debootstrap --variant=minbase --keyring="$keyring" "$suite" "$root" "$mirror"

step "packages"
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
cat > "$root/etc/dpkg/dpkg.cfg.d/lab" <<'END'
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/man/*
END
in_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
in_root apt-get -qq update
in_root apt-get -qq -o Dpkg::Use-Pty=0 install --yes --no-install-recommends "$@"

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
rm -f "$root"/etc/ssh/ssh_host_* "$root/usr/sbin/policy-rc.d" "$root/etc/apt/apt.conf.d/99-lab-build"
rm -rf "$root/etc/apt/auth.conf" "$root/etc/apt/auth.conf.d" "$root"/var/lib/apt/lists "$root"/var/cache/apt "$root"/var/log/*.log
# A folder that comes from the image can't be renamed on an overlay, as a restore of etcd does.
rm -rf "$root/var/lib/etcd"
: > "$root/etc/machine-id"
rm -f "$root/etc/resolv.conf" "$root/etc/hostname"
ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
umount "$root/proc"
