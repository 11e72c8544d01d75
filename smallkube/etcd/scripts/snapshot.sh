#!/bin/sh
# Takes a snapshot of etcd and writes it to standard output while it verifies it, leaving nothing on this machine:
#   snapshot.sh ENDPOINT FOLDER SECONDS ENCRYPTION_CONFIGURATION
# Output: a line of JSON (record.Announced), then the snapshot as etcdctl saves it, compressed by zstd, and once it is
# verified a line break and a line of JSON (record.Snapshot). Without the latter it counts for nothing.
# FOLDER holds the snapshot meanwhile; each call of etcdctl may take SECONDS; the encryption configuration need not exist.
umask 077
endpoint=$1 folder=$2 seconds=$3 configuration=$4 page=5000
new='' packing=''

# In the foreground: in a process group of its own it would outlive ours.
etcdctl() {
  timeout --foreground -k 5 "$((limit + 10))" etcdctl --endpoints "$endpoint" --dial-timeout 5s --command-timeout "${limit}s" "$@"
}

field() { # of etcd's status
  awk -v name="\"$1\"" '$1 == name { gsub("\"", "", $3); print $3; exit }' "$new/status"
}

# Keys alive at the revision, counted by the first two parts of their names; page after page spares etcd's memory.
count_keys() {
  last='' found=$page
  while [ "$found" -ge "$page" ]; do
    etcdctl get "$last" --from-key --keys-only --limit "$page" --rev "$revision" >"$new/page" 2>/dev/null || return 1
    sed -i '/^$/d' "$new/page"
    found=$(wc -l <"$new/page")
    [ -z "$last" ] || sed -i 1d "$new/page" # which the previous page ended with
    cut -d / -f 1-3 "$new/page" >>"$new/names" || return 1
    last=$(tail -n 1 "$new/page")
  done
  counted=$(sort "$new/names" | uniq -c | escaped | sed 's/^ *\([0-9]*\) \(.*\)/"\2": \1/' | paste -s -d , -)
  keys=$(wc -l <"$new/names") prefixes="{$counted}"
}

mkdir -p "$folder"
exec 9>"$folder/lock"
flock -n 9 || fail "another backup is being taken on this machine"
rm -rf "$folder"/new.*
new=$(mktemp -d "$folder/new.XXXXXX")
# PIPE too: the shell may report that zstd was terminated when standard error is closed already.
trap 'trap "" TERM PIPE; [ -z "$packing" ] || kill "$packing" 2>/dev/null || :; rm -rf "$new"' EXIT
trap 'exit 143' TERM INT HUP PIPE

status() {
  etcdctl endpoint status --write-out fields >"$new/status" 2>"$new/output"
}

# A connection that is refused is tried again by etcdctl until the time is over: what does not listen is reported at once.
limit=2
if ! status; then
  refused=$(sed -n 's/.*Error while dialing: \([^"\\]*\).*/\1/p' "$new/output" | tail -n 1)
  [ -z "$refused" ] || fail "etcd does not answer: $refused"
  limit=$seconds
  status || fail "etcd does not answer: $(last_line "$new/output")"
fi
limit=$seconds
database=$(field DBSize)
free=$(df -Pk "$folder" | awk 'NR == 2 { print $4 }')
[ "$((free * 1024))" -ge "$((database * 2))" ] ||
  fail "$folder has $((free / 1024)) MiB free, and twice the database is needed: $((database * 2 / 1048576)) MiB"

etcdctl snapshot save "$new/db" >"$new/output" 2>&1 || fail "the snapshot can't be taken: $(last_line "$new/output")"
size=$(stat -c %s "$new/db")
[ "$((size % 512))" -eq 32 ] || fail "the snapshot is not whole: $size bytes"
printf '{"size": %s}\n' "$size"
zstd -q -3 -T0 -c "$new/db" &
packing=$!
head -c -32 "$new/db" | sha256 >"$new/hash" &
hashing=$!
timeout --foreground "$seconds" etcdutl snapshot status "$new/db" --write-out simple >"$new/snapshot" 2>"$new/output" ||
  fail "the snapshot can't be read: $(last_line "$new/output")"
# Of a snapshot, etcdutl reports the revision of the last key in it: 0 when there is none, although etcd begins at 1, and
# too low where compaction removed that key (older versions of etcd). What etcd itself reported just before is never too
# high. The greater one is the revision of an etcd that is restored from the snapshot.
revision=$(cut -d , -f 2 "$new/snapshot" | tr -d ' ')
live=$(field Revision)
[ "$revision" -ge "$live" ] || revision=$live
: >"$new/names"
keys=null prefixes=null
count_keys || :
wait "$hashing"
hash=$(cat "$new/hash")
[ "$hash" = "$(tail -c 32 "$new/db" | od -An -v -tx1 | tr -d ' \n')" ] ||
  fail "the snapshot does not match the hash that etcd appended to it"

alarms=$(grep -o 'alarm:[A-Z]*' "$new/status" | sed 's/alarm://' | sort -u | json_lines)
kubernetes=
if command -v kubectl >/dev/null; then
  kubernetes=$(timeout --foreground 20 kubectl version --client 2>/dev/null |
    sed -n 's/^Client Version: \([A-Za-z0-9.+-]*\)$/"\1"/p')
fi
needed=
if [ -r "$configuration" ]; then
  needed=$(encryption_keys "$configuration" | escaped |
    sed 's/\([^ ]*\) \(.*\)/{"sha256": "\1", "name": "\2"}/' | paste -s -d , -)
fi
wait "$packing" || fail "the snapshot can't be compressed"
packing=
printf '\n{"size": %s, "snapshot_sha256": "%s", "revision": %s, "etcd": "%s", "kubernetes": %s' \
  "$size" "$hash" "$revision" "$(field Version)" "${kubernetes:-null}"
printf ', "keys": %s, "prefixes": %s, "encryption_keys": [%s], "alarms": %s}\n' "$keys" "$prefixes" "$needed" "$alarms"
