#!/bin/sh
# Puts restored data in the place of etcd's, and goes back by itself when etcd or the API server does not come up:
#   exchange.sh DATA_DIRECTORY NEW ENDPOINT SECONDS
# NEW/data is the restored data. Runs as a unit of its own, so that it ends whatever becomes of the connection.
# Beside it, "log" has the steps, and "outcome" the result: "restored OLD" or "back REASON" or "stuck REASON".
set -eu
export LC_ALL=C
export PATH="${PATH:+$PATH:}/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
data=$1 new=$2 endpoint=$3 seconds=$4
state=/run/smallkube/etcd-restore
stamp=$(date -u +%Y%m%dT%H%M%SZ)
users="kube-scheduler kube-controller-manager kube-activation kube-apiserver"

step() {
  echo "$*" >>"$state/log"
}

end() {
  echo "$*" >"$state/outcome.new"
  mv "$state/outcome.new" "$state/outcome"
  exit 0
}

loaded() {
  [ "$(systemctl show --property LoadState --value "$1.service")" = loaded ]
}

stop_all() {
  for unit in $users etcd; do
    if loaded "$unit"; then systemctl stop "$unit.service" || :; fi
  done
}

healthy() {
  deadline=$(($(date +%s) + seconds))
  until timeout 15 etcdctl --endpoints "$endpoint" --command-timeout 5s endpoint health >/dev/null 2>&1; do
    [ "$(date +%s)" -lt "$deadline" ] || return 1
    sleep 0.2
  done
}

# The API server's unit counts as started when it answers; what is not installed here, systemd leaves inactive.
start_all() {
  systemctl reset-failed etcd.service 2>/dev/null || :
  reason="etcd does not start"
  timeout "$seconds" systemctl start etcd.service || return 1
  reason="etcd does not become healthy"
  healthy || return 1
  for unit in kube-apiserver kube-activation kube-controller-manager kube-scheduler; do
    loaded "$unit" || continue
    systemctl reset-failed "$unit.service" 2>/dev/null || :
    if [ "$unit" = kube-apiserver ]; then
      reason="the API server does not come up"
      timeout "$((seconds + 60))" systemctl start "$unit.service" || return 1
    else
      systemctl start --no-block "$unit.service" || :
    fi
  done
}

step "stop the API server, its clients and etcd"
stop_all
step "exchange $data"
# From here the folder is named as what it will hold, so that no later run takes the old data for leftovers.
old=$data.before-$stamp
if [ -e "$data" ]; then
  mv -T "$new/data" "$old"
  mv --exchange -T "$old" "$data"
else
  old=none
  mv -T "$new/data" "$data"
fi
rm -rf "$new"
sync -f "$data"
step "start etcd and the API server"
if start_all; then end "restored $old"; fi

failed=$reason
step "go back: $failed"
stop_all
if [ "$old" != none ]; then
  mv --exchange -T "$old" "$data"
  rm -rf "$old"
  if start_all; then end "back $failed"; fi
  end "stuck $failed; with the data of before, $reason"
fi
end "stuck $failed; there was no data before"
