#!/bin/sh
# When each user was last seen by the API server, by its audit log: last-seen.sh LOG USER...
# Prints {"found": …, "times": {USER: RFC 3339}}; a user of whom the log has nothing is left out. Changes nothing.
set -u
log=$1
shift
[ -f "$log" ] || {
  echo '{"found": false, "times": {}}'
  exit
}
# The newest file first: a name that holds a time, which is that of its rotation.
files=$(find "${log%/*}" -name "$(basename "${log%.log}")-*.log*" | sort -r)

# The last request in a file, whose last line may not be whole. Names have no quotes, and in texts that a client sends each quote is preceded by \.
last() {
  case $1 in
    *.gz) gzip -cd "$1" ;;
    *) cat "$1" ;;
  esac 2>/dev/null | grep -F "\"user\":{\"username\":\"$2\"" | tail -n 2 |
    jq -rR '(fromjson | .requestReceivedTimestamp | strings)?' | tail -n 1
}

for user in "$@"; do
  for file in "$log" $files; do
    time=$(last "$file" "$user")
    [ -n "$time" ] && break
  done
  printf '%s\n%s\n' "$user" "$time"
done | jq -nRc '{found: true, times: ([inputs] | [range(0; length; 2) as $at | {key: .[$at], value: .[$at + 1]}]
  | map(select(.value != "")) | from_entries)}'
