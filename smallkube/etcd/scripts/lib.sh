# shellcheck shell=sh
# What the scripts in this folder share: it is put before each of them.
set -eu
export LC_ALL=C
# cron and an empty environment have too few folders; NixOS has its programs in the first of these.
export PATH="${PATH:+$PATH:}/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

fail() {
  echo "$*" >&2
  exit 1
}

# SHA-256 of standard input, in hex. coreutils take five times as long as OpenSSL where they don't use it (Debian's).
sha256() {
  if command -v openssl >/dev/null; then openssl dgst -sha256 -r; else sha256sum; fi | cut -d ' ' -f 1
}

last_line() { # of a program's output in FILE
  tail -n 1 "$1" | cut -c 1-300
}

# Standard input as JSON: a list with a string for each line.
json_lines() {
  printf '[%s]' "$(tr -d '\000-\011\013-\037' | sed 's/[\\"]/\\&/g; s/.*/"&"/' | paste -s -d , -)"
}

# Lines "SHA256 NAME" for the keys of an EncryptionConfiguration, word by word, so that any layout of YAML will do which
# kinds.validate accepts. The secrets themselves do not leave this machine.
encryption_keys() {
  name='' hash='' previous=''
  sed 's/\(^\|[[:space:]]\)#.*//' "$1" | tr -s '[:space:][]{},:"'\' '\n' | while read -r word; do
    case $word in [\|\>\!\&]*) continue ;; esac # before a value: a block of text, a tag, an anchor
    case $previous in
    name) name=$word word='' ;;
    secret) hash=$(printf %s "$word" | sha256sum | cut -d ' ' -f 1) word='' ;;
    keys) name='' hash='' ;;
    esac
    previous=$word
    if [ "$name" ] && [ "$hash" ]; then
      echo "$hash $name"
      name='' hash=''
    fi
  done
}

# etcdutl must be able to read what an etcd of this MINOR wrote, as "3 6".
check_version() {
  found=$(etcdutl version 2>/dev/null | sed -n 's/^etcdutl version: \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
  [ -n "$found" ] || fail "etcdutl not found"
  if [ "${found% *}" -ne "${1% *}" ] || [ "${found#* }" -lt "${1#* }" ]; then
    fail "etcd $(echo "$found" | tr ' ' .) is installed, and can't read what $(echo "$1" | tr ' ' .) wrote; deploy that minor first"
  fi
}

# restore_snapshot NEW SIZE SHA256: the snapshot on standard input, compressed by zstd, becomes the folder NEW/data.
# Its revisions are raised where etcdutl can do that; $bump is empty where not.
restore_snapshot() {
  needed=$(($2 * 2 / 1048576 + 200)) # MiB: with two segments of etcd's log, and some
  free=$(df -Pk "$(dirname "$1")" | awk 'NR == 2 { print int($4 / 1024) }')
  [ "$free" -ge "$needed" ] || fail "$(dirname "$1") has $free MiB free, and $needed are needed"
  mkdir "$1"
  # A few bytes can unpack to any size.
  zstd -q -dc 2>/dev/null | head -c "$(($2 + 1))" >"$1/snapshot" || fail "the data received can't be written"
  received="$(stat -c %s "$1/snapshot") $(head -c -32 "$1/snapshot" | sha256)"
  [ "$received" = "$2 $3" ] || fail "the data received differs from what was sent"
  bump="--bump-revision 1000000000 --mark-compacted"
  etcdutl snapshot restore --help 2>&1 | grep -q -e --bump-revision || bump=
  # shellcheck disable=SC2086 # words of ours
  etcdutl snapshot restore "$1/snapshot" --data-dir "$1/data" $bump >"$1/output" 2>&1 ||
    fail "etcdutl snapshot restore: $(last_line "$1/output")"
  rm -f "$1/snapshot"
  chmod 700 "$1/data"
}

# Whether etcd at ENDPOINT answers within SECONDS; not waited for once its process PID, if given, has ended. By a read
# that needs a leader: `endpoint health` also fails for an alarm, which is a part of the data.
answers() {
  deadline=$(($(date +%s) + $2))
  until timeout 15 etcdctl --endpoints "$1" --command-timeout 5s get health >/dev/null 2>&1; do
    [ "$(date +%s)" -lt "$deadline" ] || return 1
    [ -z "${3-}" ] || kill -0 "$3" 2>/dev/null || return 1
    sleep 0.2
  done
}

has_nospace() { # ENDPOINT
  timeout 15 etcdctl --endpoints "$1" --command-timeout 5s alarm list 2>/dev/null | grep -q -e NOSPACE
}

# disarm_nospace ENDPOINT SECONDS: the space is free once the history, which is marked compacted, is gone and etcd
# defragmented. A compaction to a revision that is compacted already waits for the one that is under way.
disarm_nospace() {
  for words in "compact --physical 1" defrag; do
    # shellcheck disable=SC2086 # words of ours
    timeout "$(($2 + 15))" etcdctl --endpoints "$1" --command-timeout "$2s" $words >/dev/null 2>&1 || :
  done
  timeout 15 etcdctl --endpoints "$1" --command-timeout 5s alarm disarm >/dev/null 2>&1
}
