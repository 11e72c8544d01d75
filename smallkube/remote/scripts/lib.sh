#!/bin/sh
# Precedes every script that is sent to a machine. Defines functions, changes nothing.
# A script prints one JSON object: it begins with begin, ends with end, and these print the members between.
begin() { printf '{"script": "%s"' "$1"; }
end() { printf '}\n'; }

# Text of any kind, made fit for JSON strings: control characters but tab, line break and escape are dropped.
escaped() {
  LC_ALL=C tr -d '\000-\010\013-\032\034-\037' | LC_ALL=C sed 's/[\\"]/\\&/g; s/\t/\\t/g; s/\x1b/\\u001b/g'
}

# string NAME TEXT: a string; text NAME: standard input as one; list NAME LINES: a list of strings. Most of what is asked is
# plain or empty, which needs no program: the answers of one deploy have hundreds of members.
string() {
  case $2 in
  *[!A-Za-z0-9\ ._:/=,@+-]*) printf '%s\n' "$2" | text "$1" ;;
  *) printf ', "%s": "%s"' "$1" "$2" ;;
  esac
}
text() {
  printf ', "%s": "' "$1"
  escaped | LC_ALL=C awk 'NR > 1 { printf "\\n" } { printf "%s", $0 }'
  printf '"'
}
list() {
  printf ', "%s": [' "$1"
  if [ "$2" ]; then
    printf '%s\n' "$2" | escaped | LC_ALL=C awk 'NF { printf "%s\"%s\"", comma, $0; comma = ", " }'
  fi
  printf ']'
}
number() { printf ', "%s": %s' "$1" "${2:-null}"; }

# flag NAME COMMAND...: whether the command succeeds.
flag() {
  name=$1
  shift
  if "$@"; then printf ', "%s": true' "$name"; else printf ', "%s": false' "$name"; fi
}

# Keeps the lock of a deploy alive in the background ($keeper) as long as this script runs.
keep_lock_alive() {
  while kill -0 $$ && touch -c /run/smallkube/lock; do sleep 60; done </dev/null >/dev/null 2>&1 3<&- 9>&- &
  # shellcheck disable=SC2034 # for the trap of the script
  keeper=$!
}

# Writes standard input to a file, as a whole or not at all.
write() {
  cat >"$1.new"
  mv "$1.new" "$1"
}

# Whether etcd answers and has raised no alarm; prints "healthy" or what is wrong.
etcd_health() {
  if output=$(etcdctl --endpoints unix:///run/etcd/grpc --dial-timeout 3s --command-timeout 5s endpoint health 2>&1)
  then
    echo "healthy"
  else
    # The last line says only that the cluster is unhealthy.
    known='s/Active Alarm(s):/alarm/; s/ *$//; s/.* is unhealthy: failed to commit proposal: //p'
    reason=$(printf '%s\n' "$output" | sed -n "$known")
    echo "unhealthy: ${reason:-$(printf '%s\n' "$output" | tail -n 1)}"
    return 1
  fi
}
