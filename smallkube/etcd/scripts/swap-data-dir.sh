#!/bin/sh
# Swaps etcd's data for restored data, and rolls back if etcd or the API server does not start:
#   swap-data-dir.sh DATA_DIRECTORY NEW STATE ENDPOINT SECONDS
# NEW/data is the restored data. Runs as a unit of its own, so that it ends whatever becomes of the connection.
# STATE/log has the steps, STATE/outcome two lines: "restored" and where the previous data is (or "none"); or
# "untouched", "rolled-back" (the previous data is served again) or "failed" (neither is), and the reason.
data=$1 new=$2 state=$3 endpoint=$4 seconds=$5
old=$data.before-$(date -u +%Y%m%dT%H%M%SZ)
swapped=

step() {
  echo "$*" >>"$state/log" || :
}

end() {
  printf '%s\n' "$@" >"$state/outcome.new"
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

# The API server's unit counts as started when it answers. A unit that is not installed stays inactive.
start_all() {
  reason="etcd does not start"
  systemctl reset-failed etcd.service 2>/dev/null || :
  timeout "$seconds" systemctl start etcd.service || return 1
  reason="etcd does not answer"
  answers "$endpoint" "$seconds" || return 1
  reason="the alarm NOSPACE can't be disarmed"
  if [ "$swapped" ] && has_nospace "$endpoint"; then
    step "defragment and disarm the alarm NOSPACE"
    disarm_nospace "$endpoint" "$seconds" || return 1
  fi
  for unit in kube-apiserver kube-activation kube-controller-manager kube-scheduler; do
    loaded "$unit" || continue
    systemctl reset-failed "$unit.service" 2>/dev/null || :
    if [ "$unit" = kube-apiserver ]; then
      reason="the API server does not start"
      timeout "$((seconds + 60))" systemctl start "$unit.service" || return 1
    else
      systemctl start --no-block "$unit.service" || :
    fi
  done
}

swap() {
  if [ ! -e "$data" ]; then
    old=none
    mv -T "$new/data" "$data" || return 1
  else
    # Under its final name: no later run may take the previous data for leftovers of a restore.
    mv -T "$new/data" "$old" || return 1
    if ! mv --exchange -T "$old" "$data"; then
      rm -rf "$old"
      return 1
    fi
  fi
  swapped=yes
}

roll_back() {
  step "roll back: $1"
  rm -rf "$new" || :
  if [ "$old" = none ]; then end failed "$1; there was no previous data"; fi
  if ! stop_all; then end failed "$1; etcd does not stop; the previous data is in $old"; fi
  if [ "$swapped" ]; then
    mv --exchange -T "$old" "$data" || end failed "$1; the previous data is in $old"
    rm -rf "$old"
    swapped=
  fi
  if start_all; then end rolled-back "$1"; fi
  end failed "$1; and with the previous data, which is in its place again, $reason"
}

exec 9>"$(dirname "$state")/lock"
flock -w 60 9 || end untouched "another restore is in progress"
[ -d "$new/data" ] || end untouched "the restored data is missing: did another restore start?"
step "stop the API server, its clients and etcd"
if ! stop_all; then
  if start_all; then end rolled-back "etcd does not stop"; fi
  end failed "etcd does not stop; $reason"
fi
step "swap the data folders"
swap || roll_back "the folders can't be swapped"
if systemctl --quiet is-active etcd.service; then roll_back "etcd was started meanwhile"; fi
rm -rf "$new" || :
sync -f "$data" || :
step "start etcd and the API server"
start_all || roll_back "$reason"
end restored "$old"
