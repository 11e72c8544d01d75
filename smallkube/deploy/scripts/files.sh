#!/bin/sh
# What was deployed here last: "DIGEST", then a line "SHA256  PATH" for each file of that bundle. Changes nothing.
# Prints nothing when nothing was deployed or the bundle is not kept any more.
set -u
home=/var/lib/smallkube
digest=$(grep -v '"outcome": "\(failed\|rolled back\|unknown\)"' "$home/history.jsonl" 2>/dev/null | tail -n 1 |
  sed -n 's/.*"digest": "\([0-9a-f]*\)".*/\1/p')
cd "$home/bundles/${digest:-none}" 2>/dev/null || exit 0
echo "$digest"
find . -type f -exec sha256sum {} + | sed 's|  \./|  |'
