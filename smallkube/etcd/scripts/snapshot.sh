#!/bin/sh
# Takes a snapshot of etcd, checks it, and writes it to standard output, leaving nothing on this machine:
#   snapshot.sh ENDPOINT FOLDER SECONDS ENCRYPTION_CONFIGURATION
# Output: lines KEY=VALUE, an empty line, the snapshot as etcdctl saves it, compressed by zstd.
# FOLDER holds the snapshot meanwhile; each call of etcdctl may take SECONDS; the encryption configuration need not exist.
set -eu
export LC_ALL=C
umask 077
endpoint=$1 folder=$2 seconds=$3 configuration=$4
new=

fail() {
  echo "$*" >&2
  exit 1
}

# In the foreground: in a process group of its own it would outlive ours.
etcdctl() {
  timeout --foreground -k 5 "$((seconds + 10))" etcdctl --endpoints "$endpoint" --dial-timeout 5s --command-timeout "${seconds}s" "$@"
}

number() { # of a JSON object's first key of this name
  sed -n "s/.*\"$1\":\([0-9][0-9]*\).*/\1/p" | head -n 1
}

words() { # the last thing a program said
  tail -n 1 "$new/said" | cut -c 1-300
}

# Keys alive at the revision, counted by the first two parts of their names; page after page spares etcd's memory.
count_keys() {
  last=
  skip=0
  while :; do
    etcdctl get "$last" --from-key --keys-only --limit 5000 --rev "$revision" >"$new/page" 2>/dev/null || return 1
    sed -i '/^$/d' "$new/page"
    [ "$skip" -eq 0 ] || sed -i 1d "$new/page"
    [ -s "$new/page" ] || break
    cut -d / -f 1-3 "$new/page" >>"$new/names"
    last=$(tail -n 1 "$new/page")
    skip=1
  done
  sort "$new/names" 2>/dev/null | uniq -c | sed -n 's/^ *\([0-9]*\) \(.*\)$/prefix=\1 \2/p' >"$new/prefixes"
}

mkdir -p "$folder"
exec 9>"$folder/lock"
flock -n 9 || fail "another backup is being taken on this machine"
rm -rf "$folder"/new.*
new=$(mktemp -d "$folder/new.XXXXXX")
# PIPE too: a shell may have to say that zstd was terminated, when nobody listens any more.
trap 'trap "" TERM PIPE; rm -rf "$new"' EXIT
trap 'exit 143' TERM INT HUP PIPE

etcdctl endpoint status --write-out json >"$new/status" 2>"$new/said" || fail "etcd does not answer: $(words)"
database=$(number dbSize <"$new/status")
free=$(df -Pk "$folder" | awk 'NR == 2 { print $4 }')
[ "$((free * 1024))" -ge "$((database * 2))" ] ||
  fail "$folder has $((free / 1024)) MiB free, and twice the database is needed: $((database * 2 / 1048576)) MiB"

etcdctl snapshot save "$new/db" >"$new/said" 2>&1 || fail "the snapshot can't be taken: $(words)"
size=$(stat -c %s "$new/db")
[ "$((size % 512))" -eq 32 ] || fail "the snapshot is not whole: $size bytes"
head -c -32 "$new/db" | sha256sum | cut -d ' ' -f 1 >"$new/hash" &
hashing=$!
timeout --foreground "$seconds" etcdutl snapshot status "$new/db" --write-out json >"$new/snapshot" 2>"$new/said" ||
  fail "the snapshot can't be read back: $(words)"
# Of a snapshot, etcdutl reports the revision of the last key in it: 0 when there is none, although etcd begins at 1, and
# too low where compaction removed that key (older versions of etcd). What etcd itself reported just before is never too
# high. The greater one is the revision of an etcd that is restored from the snapshot.
revision=$(number revision <"$new/snapshot")
live=$(number revision <"$new/status")
[ "$revision" -ge "$live" ] || revision=$live
: >"$new/names"
count_keys || rm -f "$new/prefixes"
wait "$hashing"
hash=$(cat "$new/hash")
[ "$hash" = "$(tail -c 32 "$new/db" | od -An -v -tx1 | tr -d ' \n')" ] ||
  fail "the snapshot does not match the hash that etcd appended to it"

echo "size=$size"
echo "sha256=$hash"
echo "revision=$revision"
sed -n 's/.*"version":"\([0-9.]*\)".*/etcd=\1/p' "$new/status"
if [ -e "$new/prefixes" ]; then
  echo "keys=$(wc -l <"$new/names")"
  cat "$new/prefixes"
fi
if command -v kubectl >/dev/null; then
  timeout --foreground 20 kubectl version --client --output json 2>/dev/null |
    sed -n 's/.*"gitVersion": *"\([^"]*\)".*/kubernetes=\1/p'
fi
if [ -r "$configuration" ]; then
  sed -n 's/^[- ]*name: *//p' "$configuration" >"$new/key-names"
  sed -n 's/^[- ]*secret: *//p' "$configuration" | while read -r secret; do
    printf %s "$secret" | sha256sum | cut -d ' ' -f 1
  done | paste -d ' ' - "$new/key-names" | sed 's/^/encryption_key=/'
fi
echo
zstd -q -3 -T0 -c "$new/db"
