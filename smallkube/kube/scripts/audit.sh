#!/bin/sh
# The newest requests in the API server's audit log, oldest first, as JSON. Changes nothing.
#   audit.sh LOG SECONDS LIMIT USERS VERBS NAMESPACES RESOURCES
# SECONDS: how far back, or 0; the last four are words separated by commas, or empty for any.
set -u
log=$1 seconds=$2 limit=$3
shift 3
[ -f "$log" ] || {
  echo '{"found": false, "requests": []}'
  exit
}
since=$(($(date +%s) - seconds))
[ "$seconds" -gt 0 ] || since=0

# shellcheck disable=SC2016 # variables of jq
filter='
  def text: strings // "" | .[:200];
  def any_of($words): ($words | split(",")) as $list | ($list == []) or any(.[]; IN($list[]));
  ( fromjson | objects | select(.requestReceivedTimestamp >= $since)
  | (.objectRef.resource | text) as $resource | (.objectRef.subresource | text) as $subresource
  | {
      id: .auditID | text, time: .requestReceivedTimestamp | text,
      user: .user.username | text, impersonated: .impersonatedUser.username | text,
      verb: .verb | text, namespace: .objectRef.namespace | text, name: .objectRef.name | text,
      resource: (if $subresource == "" then $resource else "\($resource)/\($subresource)" end),
      path: (if $resource == "" then .requestURI | text else "" end),
      code: (.responseStatus.code | numbers // 0), address: .sourceIPs[-1] | text, agent: .userAgent | text,
      credential: .user.extra["authentication.kubernetes.io/credential-id"][0] | text
    }
  | select(([.user, .impersonated] | any_of($users)) and ([.verb] | any_of($verbs))
      and ([.namespace] | any_of($namespaces)) and ([.resource, $resource] | any_of($resources))) )?'

# Those of a file, which is compressed some time after it was rotated. Long requests are there twice: begun, and ended.
matching() {
  { cat "$1" 2>/dev/null || gzip -cd "$1.gz"; } |
    jq -Rc --arg since "$(date -u -d "@$since" +%Y-%m-%dT%H:%M:%S)" --arg users "$2" --arg verbs "$3" \
      --arg namespaces "$4" --arg resources "$5" "$filter" | tail -n "$((2 * limit))"
}

# The current file before the others are listed: when it is rotated meanwhile, requests are read twice, not missed.
found=$(matching "$log" "$@")
for file in $(find "${log%/*}" -name "$(basename "${log%.log}")-*.log*" -newermt "@$since" | sed 's/\.gz$//' | sort -ru); do
  [ "$(printf '%s\n' "$found" | wc -l)" -lt "$((2 * limit))" ] || break
  found=$(
    matching "$file" "$@"
    printf '%s\n' "$found"
  )
done
printf '%s\n' "$found" | jq -cs --argjson limit "$limit" \
  '{found: true, requests: (group_by(.id) | map(.[-1]) | sort_by(.time) | .[-$limit:])}'
