#!/bin/sh
# Restores a snapshot in a new folder, and starts the swap with etcd's data as a unit of its own, which ends by itself;
# standard input is the snapshot, compressed by zstd:
#   restore.sh DATA_DIRECTORY SIZE SHA256 MINOR ENDPOINT SECONDS ENCRYPTION_CONFIGURATION SWAP_SCRIPT [KEY...]
# MINOR is of the etcd that took it, as "3 6". A KEY is "SHA256 NAME" of what ENCRYPTION_CONFIGURATION must have.
# Output: JSON {run, bumped}; run is the argument of restore-progress.sh.
umask 077
data=$1 size=$2 sha256=$3 minor=$4 endpoint=$5 seconds=$6 configuration=$7 swap=$8
shift 8
state=/run/smallkube/etcd-restore
unit=smallkube-etcd-restore

[ "$(id -u)" -eq 0 ] || fail "root is needed"
mkdir -p "$state"
exec 9>"$state/lock"
flock -n 9 || fail "another restore is in progress"
# It takes the lock only a moment after it was started.
if systemctl --quiet is-active "$unit.service"; then fail "another restore is in progress"; fi
getent passwd etcd >/dev/null || fail "there is no user etcd: is this the primary?"
mv --help | grep -q -e --exchange || fail "mv can't exchange folders: coreutils 9.5 or newer is needed"
command -v zstd >/dev/null || fail "zstd not found"
if mountpoint --quiet "$data"; then fail "$data is a mount point, which can't be swapped"; fi
check_version "$minor"

deployed=
if [ -r "$configuration" ]; then deployed=$(encryption_keys "$configuration"); fi
for key; do
  # By the hash alone: a key may have another name today.
  echo "$deployed" | grep -q -e "^${key%% *} " ||
    fail "the API server does not have the encryption key ${key#* }; deploy keys/EncryptionConfiguration.yaml.age first"
done

rm -rf "$data".restore-*
run=$(date -u +%Y%m%dT%H%M%SZ)-$$
new=$data.restore-$run
trap 'trap "" TERM PIPE; rm -rf "$new"' EXIT
trap 'exit 143' TERM INT HUP PIPE
restore_snapshot "$new" "$size" "$sha256"
mkdir "$state/$run"
chown -R etcd:etcd "$new/data"
sync -f "$new/data"

printf %s "$swap" >"$state/$run/swap-data-dir.sh"
systemd-run --unit="$unit" --collect --quiet \
  /bin/sh "$state/$run/swap-data-dir.sh" "$data" "$new" "$state/$run" "$endpoint" "$seconds" >"$new/output" 2>&1 9>&- ||
  fail "systemd-run: $(last_line "$new/output")"
trap - EXIT
if [ "$bump" ]; then bumped=true; else bumped=false; fi
printf '{"run": "%s", "bumped": %s}\n' "$run" "$bumped"
