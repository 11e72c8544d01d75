#!/bin/sh
# Unpacks a snapshot beside etcd's data and prepares the exchange, of which nothing is done yet; standard input is the
# snapshot, compressed by zstd:
#   restore.sh DATA_DIRECTORY SIZE SHA256 MINOR ENCRYPTION_CONFIGURATION EXCHANGE_SCRIPT
# Output: lines KEY=VALUE. MINOR is of the etcd that took it, as "3 6".
set -eu
export LC_ALL=C
export PATH="${PATH:+$PATH:}/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
umask 077
data=$1 size=$2 sha256=$3 minor=$4 configuration=$5 exchange=$6
state=/run/smallkube/etcd-restore

fail() {
  echo "$*" >&2
  exit 1
}

[ "$(id -u)" -eq 0 ] || fail "root is needed"
systemctl --quiet is-active smallkube-etcd-restore.service && fail "another restore is under way here"
mkdir -p "$state"
exec 9>"$state/lock"
flock -n 9 || fail "another restore is being prepared here"
getent passwd etcd >/dev/null || fail "there is no user etcd: is this the primary?"
mv --help | grep -q -e --exchange || fail "mv can't exchange folders: coreutils 9.5 or newer is needed"
if mountpoint --quiet "$data"; then fail "$data is a mount point, which can't be exchanged"; fi
found=$(etcdutl version | sed -n 's/^etcdutl version: \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
[ -n "$found" ] || fail "etcdutl is not here"
if [ "${found% *}" -ne "${minor% *}" ] || [ "${found#* }" -lt "${minor#* }" ]; then
  fail "etcd $(echo "$found" | tr ' ' .) is here, and can't read what $(echo "$minor" | tr ' ' .) wrote"
fi
rm -rf "$data".restore-*
free=$(df -Pk "$(dirname "$data")" | awk 'NR == 2 { print $4 }')
[ "$((free * 1024))" -ge "$((size * 2))" ] ||
  fail "$(dirname "$data") has $((free / 1024)) MiB free, and twice the snapshot is needed: $((size * 2 / 1048576)) MiB"

new=$data.restore-$(date -u +%Y%m%dT%H%M%SZ)
trap 'trap "" TERM PIPE; rm -rf "$new"' EXIT
trap 'exit 143' TERM INT HUP PIPE
mkdir "$new"
zstd -q -dc >"$new/snapshot" || fail "what arrived can't be unpacked"
[ "$(head -c -32 "$new/snapshot" | sha256sum | cut -d ' ' -f 1)" = "$sha256" ] || fail "what arrived is not what was sent"
bump=
if etcdutl snapshot restore --help 2>&1 | grep -q -e --bump-revision; then
  bump="--bump-revision 1000000000 --mark-compacted"
fi
# shellcheck disable=SC2086 # words of ours
etcdutl snapshot restore "$new/snapshot" --data-dir "$new/data" $bump >"$new/said" 2>&1 ||
  fail "etcdutl snapshot restore: $(tail -n 1 "$new/said" | cut -c 1-300)"
rm -f "$new/snapshot"
chown -R etcd:etcd "$new/data"
chmod 700 "$new/data"
sync -f "$new/data"
printf %s "$exchange" >"$state/exchange.sh"
rm -f "$state/outcome" "$state/log"
trap - EXIT
echo "new=$new"
echo "bumped=${bump:+yes}"
if [ -r "$configuration" ]; then
  sed -n 's/^[- ]*secret: *//p' "$configuration" | while read -r secret; do
    printf 'key=%s\n' "$(printf %s "$secret" | sha256sum | cut -d ' ' -f 1)"
  done
fi
