#!/bin/sh
# Gives a new primary the data of a backup before its etcd starts for the first time, so that no API server ever shows
# the other machines an empty cluster (their kubelets would end every pod):
#   seed.sh look DATA_DIRECTORY MARK
#   seed.sh seed DATA_DIRECTORY MARK NAME SYSTEM SIZE SHA256 MINOR    (standard input: the snapshot, packed by zstd)
# MARK is a file that then has the backup's NAME. SYSTEM is the store path of the system that is to be activated: its
# programs are used. MINOR is of the etcd that took the snapshot, as "3 6".
# Output: "new" (there is no data), "seeded NAME" (by us, from this backup), or "data" (of unknown origin).
set -eu
export LC_ALL=C
umask 077
what=$1 data=$2 mark=$3
spare=200 # MiB: two segments of etcd's log, and some

fail() {
  echo "$*" >&2
  exit 1
}

found=new
if [ -e "$data/member" ]; then
  found=data
  if [ -s "$mark" ]; then found="seeded $(cat "$mark")"; fi
fi
if [ "$what" = look ] || [ "$found" != new ]; then
  echo "$found"
  exit 0
fi

name=$4 system=$5 size=$6 sha256=$7 minor=$8
export PATH="$system/sw/bin:${PATH:+$PATH:}/run/current-system/sw/bin:/usr/sbin:/usr/bin:/sbin:/bin"
[ "$(id -u)" -eq 0 ] || fail "root is needed"
mkdir -p "$(dirname "$mark")"
exec 9>"$mark.lock"
flock -n 9 || fail "another run is under way here"
version=$(etcdutl version 2>/dev/null | sed -n 's/^etcdutl version: \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
[ -n "$version" ] || fail "etcdutl is not in $system"
if [ "${version% *}" -ne "${minor% *}" ] || [ "${version#* }" -lt "${minor#* }" ]; then
  fail "etcd $(echo "$version" | tr ' ' .) is to be installed, and can't read what $(echo "$minor" | tr ' ' .) wrote"
fi
new=$data.seed
rm -rf "$new"
needed=$((size * 2 / 1048576 + spare))
free=$(df -Pk "$(dirname "$data")" | awk 'NR == 2 { print int($4 / 1024) }')
[ "$free" -ge "$needed" ] || fail "$(dirname "$data") has $free MiB free, and $needed are needed"

trap 'trap "" TERM PIPE; rm -rf "$new"' EXIT
trap 'exit 143' TERM INT HUP PIPE
mkdir "$new"
zstd -q -dc >"$new/snapshot" || fail "what arrived can't be unpacked"
[ "$(stat -c %s "$new/snapshot")" -eq "$size" ] || fail "what arrived is not what was sent"
[ "$(head -c -32 "$new/snapshot" | sha256sum | cut -d ' ' -f 1)" = "$sha256" ] || fail "what arrived is not what was sent"
bump="--bump-revision 1000000000 --mark-compacted"
etcdutl snapshot restore --help 2>&1 | grep -q -e --bump-revision || bump=
# shellcheck disable=SC2086 # words of ours
etcdutl snapshot restore "$new/snapshot" --data-dir "$new/data" $bump >"$new/log" 2>&1 ||
  fail "etcdutl snapshot restore: $(tail -n 1 "$new/log" | cut -c 1-300)"
chmod 700 "$new/data"
sync -f "$new/data"
# The mark first: with it and without data, the same is done again. There is no user etcd yet; systemd gives the
# folder to it when the unit starts (StateDirectory, systemd.exec(5)).
printf '%s\n' "$name" >"$mark.new"
mv "$mark.new" "$mark"
if [ -d "$data" ]; then rmdir "$data" || fail "$data is not empty"; fi
mv -T "$new/data" "$data"
sync -f "$data"
echo "seeded $name"
