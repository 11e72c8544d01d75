#!/bin/sh
# Unpacks a snapshot beside etcd's data, and starts what exchanges the two as a unit of its own, which ends by itself;
# standard input is the snapshot, compressed by zstd:
#   restore.sh DATA_DIRECTORY SIZE SHA256 MINOR ENDPOINT SECONDS ENCRYPTION_CONFIGURATION EXCHANGE_SCRIPT [KEY...]
# MINOR is of the etcd that took it, as "3 6". A KEY is "NAME=SHA256" of what ENCRYPTION_CONFIGURATION must have.
# Output: lines KEY=VALUE; "run" is what restore-progress.sh is told.
set -eu
export LC_ALL=C
export PATH="${PATH:+$PATH:}/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
umask 077
data=$1 size=$2 sha256=$3 minor=$4 endpoint=$5 seconds=$6 configuration=$7 exchange=$8
shift 8
state=/run/smallkube/etcd-restore
unit=smallkube-etcd-restore
bump="--bump-revision 1000000000 --mark-compacted"
spare=200 # MiB: two segments of etcd's log, and some

fail() {
  echo "$*" >&2
  exit 1
}

[ "$(id -u)" -eq 0 ] || fail "root is needed"
mkdir -p "$state"
exec 9>"$state/lock"
flock -n 9 || fail "another restore is under way here"
# It takes the lock only a moment after it was started.
if systemctl --quiet is-active "$unit.service"; then fail "another restore is under way here"; fi
getent passwd etcd >/dev/null || fail "there is no user etcd: is this the primary?"
mv --help | grep -q -e --exchange || fail "mv can't exchange folders: coreutils 9.5 or newer is needed"
command -v zstd >/dev/null || fail "zstd is not here"
if mountpoint --quiet "$data"; then fail "$data is a mount point, which can't be exchanged"; fi
found=$(etcdutl version 2>/dev/null | sed -n 's/^etcdutl version: \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
[ -n "$found" ] || fail "etcdutl is not here"
if [ "${found% *}" -ne "${minor% *}" ] || [ "${found#* }" -lt "${minor#* }" ]; then
  fail "etcd $(echo "$found" | tr ' ' .) is here, and can't read what $(echo "$minor" | tr ' ' .) wrote"
fi

held=
if [ -r "$configuration" ]; then
  held=$(sed -n 's/^[- ]*secret: *//p' "$configuration" | while read -r secret; do
    printf %s "$secret" | sha256sum | cut -d ' ' -f 1
  done)
fi
for key; do
  echo "$held" | grep -q -x -F -e "${key##*=}" ||
    fail "the API server here does not have the encryption key ${key%=*}; deploy keys/EncryptionConfiguration.yaml.age first"
done

rm -rf "$data".restore-*
needed=$((size * 2 / 1048576 + spare))
free=$(df -Pk "$(dirname "$data")" | awk 'NR == 2 { print int($4 / 1024) }')
[ "$free" -ge "$needed" ] || fail "$(dirname "$data") has $free MiB free, and $needed are needed"

run=$(date -u +%Y%m%dT%H%M%SZ)-$$
new=$data.restore-$run
trap 'trap "" TERM PIPE; rm -rf "$new"' EXIT
trap 'exit 143' TERM INT HUP PIPE
mkdir "$new" "$state/$run"
zstd -q -dc >"$new/snapshot" || fail "what arrived can't be unpacked"
[ "$(stat -c %s "$new/snapshot")" -eq "$size" ] || fail "what arrived is not what was sent"
[ "$(head -c -32 "$new/snapshot" | sha256sum | cut -d ' ' -f 1)" = "$sha256" ] || fail "what arrived is not what was sent"
etcdutl snapshot restore --help 2>&1 | grep -q -e --bump-revision || bump=
# shellcheck disable=SC2086 # words of ours
etcdutl snapshot restore "$new/snapshot" --data-dir "$new/data" $bump >"$new/said" 2>&1 ||
  fail "etcdutl snapshot restore: $(tail -n 1 "$new/said" | cut -c 1-300)"
rm -f "$new/snapshot"
chown -R etcd:etcd "$new/data"
chmod 700 "$new/data"
sync -f "$new/data"

printf %s "$exchange" >"$state/$run/exchange.sh"
systemd-run --unit="$unit" --collect --quiet \
  /bin/sh "$state/$run/exchange.sh" "$data" "$new" "$state/$run" "$endpoint" "$seconds" >"$new/said" 2>&1 9>&- ||
  fail "systemd-run: $(tail -n 1 "$new/said" | cut -c 1-300)"
trap - EXIT
echo "run=$run"
echo "bumped=${bump:+yes}"
