#!/bin/sh
# An earlier system of this machine: generation.sh [NUMBER]. Without a number: the newest one before the generation that
# boots. Prints "NUMBER SYSTEM BUNDLE_DIGEST"; the digest is "-" where the history does not tell.
set -eu
profile=/nix/var/nix/profiles/system
boots=$(readlink "$profile" | sed 's/[^0-9]//g')
if [ $# -gt 0 ]; then
  number=$1
else
  number=$(find "$(dirname "$profile")" -name 'system-*-link' | sed 's/.*system-\([0-9]*\)-link/\1/' | sort -n |
    awk -v boots="$boots" '$1 < boots' | tail -n 1)
fi
if [ -z "$number" ] || [ ! -e "$profile-$number-link" ]; then
  echo "there is no generation ${number:-before $boots}" >&2
  exit 1
fi
system=$(readlink -f "$profile-$number-link")
digest=$(grep -F "\"system\": \"$system\"" /var/lib/smallkube/history.jsonl 2>/dev/null | tail -n 1 |
  sed -n 's/.*"digest": "\([0-9a-f]*\)".*/\1/p')
echo "$number $system ${digest:--}"
