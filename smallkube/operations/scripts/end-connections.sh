#!/bin/sh
# Ends all connections to the API server from some addresses, on the primary: end-connections.sh PORT CIDR...
# Requests that were authenticated when they began, such as watches, would go on. A kernel that can't end connections of
# others (CONFIG_INET_DIAG_DESTROY) leaves them: then the API server is restarted. Prints what it did.
set -eu
port=$1 left=
shift

# Both ends of each; who connects again has another port.
connections() {
  ss --no-header --tcp --numeric state established "( dst $1 and sport = :$port )" | awk '{ print $3, $4 }'
}

for cidr; do
  before=$(connections "$cidr")
  if [ -z "$before" ]; then continue; fi
  ss --kill --tcp state established "( dst $cidr and sport = :$port )" >/dev/null
  left=$left$(connections "$cidr" | grep -Fx "$before" || true)
done
if [ -n "$left" ] && systemctl --quiet is-active kube-apiserver.service; then
  systemctl restart kube-apiserver.service
  echo restarted
else
  echo ended
fi
