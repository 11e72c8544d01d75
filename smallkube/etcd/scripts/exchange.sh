#!/bin/sh
# Puts restored data in the place of etcd's, and goes back by itself when etcd or the API server does not come up:
#   exchange.sh DATA_DIRECTORY NEW STATE ENDPOINT SECONDS
# NEW/data is the restored data. Runs as a unit of its own, so that it ends whatever becomes of the connection.
# STATE/log has the steps, STATE/outcome how it ended: "restored OLD" (where the data of before is, or "none"),
# "back REASON" (the data of before is served again) or "stuck REASON".
set -eu
export LC_ALL=C
export PATH="${PATH:+$PATH:}/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
data=$1 new=$2 state=$3 endpoint=$4 seconds=$5
old=$data.before-$(date -u +%Y%m%dT%H%M%SZ)
exchanged=

step() {
  echo "$*" >>"$state/log" || :
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
  for unit in kube-scheduler kube-controller-manager kube-activation kube-apiserver etcd; do
    if loaded "$unit"; then systemctl stop "$unit.service" || :; fi
  done
  ! systemctl --quiet is-active etcd.service
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
  reason="etcd does not start"
  systemctl reset-failed etcd.service 2>/dev/null || :
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

exchange() {
  if [ ! -e "$data" ]; then
    old=none
    mv -T "$new/data" "$data" || return 1
  else
    # Under the name of what it will hold: no later run may take the data of before for leftovers of a restore.
    mv -T "$new/data" "$old" || return 1
    if ! mv --exchange -T "$old" "$data"; then
      rm -rf "$old"
      return 1
    fi
  fi
  exchanged=yes
}

go_back() {
  step "go back: $1"
  rm -rf "$new" || :
  if [ "$old" = none ]; then end "stuck $1; there was no data before"; fi
  if ! stop_all; then end "stuck $1; etcd does not stop; the data of before is in $old"; fi
  if [ "$exchanged" ]; then
    mv --exchange -T "$old" "$data" || end "stuck $1; the data of before is in $old"
    rm -rf "$old"
  fi
  if start_all; then end "back $1"; fi
  end "stuck $1; and with the data of before, which is in its place again, $reason"
}

exec 9>"$(dirname "$state")/lock"
flock -w 60 9 || end "untouched another restore is under way here"
[ -d "$new/data" ] || end "untouched the restored data is gone: did another restore begin?"
step "stop the API server, its clients and etcd"
if ! stop_all; then
  if start_all; then end "back etcd does not stop"; fi
  end "stuck etcd does not stop; $reason"
fi
step "exchange the data"
exchange || go_back "the folders can't be exchanged"
if systemctl --quiet is-active etcd.service; then go_back "etcd was started meanwhile"; fi
rm -rf "$new" || :
sync -f "$data" || :
step "start etcd and the API server"
start_all || go_back "$reason"
end "restored $old"
