#!/bin/sh
# Gives a new primary the data of a backup before its etcd starts for the first time, so that no API server ever shows
# the other machines an empty cluster (their kubelets would end every pod):
#   seed.sh look DATA_DIRECTORY MARK
#   seed.sh seed DATA_DIRECTORY MARK NAME SYSTEM SIZE SHA256 MINOR    (standard input: the snapshot, packed by zstd)
# MARK is a file that then has the backup's NAME. SYSTEM is the store path of the system that is to be activated: its
# programs are used. MINOR is of the etcd that took the snapshot, as "3 6".
# Output: "new" (there is no data), "seeded NAME" (by us, from this backup), or "data" (of unknown origin).
umask 077
what=$1 data=$2 mark=$3 seconds=120

found=new
if [ -e "$data/member" ]; then
  found=data
  if [ -s "$mark" ]; then found="seeded $(cat "$mark")"; fi
fi
if [ "$what" = look ] || [ "$found" != new ]; then
  echo "$found"
  exit 0
fi

name=$4 system=$5 size=$6 sha256=$7 minor=$8
export PATH="$system/sw/bin:$PATH"
[ "$(id -u)" -eq 0 ] || fail "root is needed"
mkdir -p "$(dirname "$mark")"
exec 9>"$mark.lock"
flock -n 9 || fail "another run is under way here"
check_version "$minor"
new=$data.seed etcd=
rm -rf "$new"

end_etcd() {
  [ -z "$etcd" ] || kill "$etcd" 2>/dev/null || :
  wait
  etcd=
}

trap 'trap "" TERM PIPE; end_etcd; rm -rf "$new"' EXIT
trap 'exit 143' TERM INT HUP PIPE
restore_snapshot "$new" "$size" "$sha256"
# A raised NOSPACE is a part of the snapshot, and no node could renew its lease. The URLs are relative: ephemeral.py.
cd "$new" || exit
timeout "$((3 * seconds))" etcd --data-dir data --listen-peer-urls unix://peer --listen-client-urls unix://grpc \
  --advertise-client-urls http://localhost:2379 --unsafe-no-fsync >output 2>&1 9>&- &
etcd=$!
answers unix:grpc "$seconds" "$etcd" || fail "etcd does not start: $(last_line output)"
if has_nospace unix:grpc; then
  disarm_nospace unix:grpc "$seconds" || fail "the alarm NOSPACE can't be disarmed"
fi
end_etcd
sync -f data
# The mark first: with it and without data, the same is done again. There is no user etcd yet; systemd gives the
# folder to it when the unit starts (StateDirectory, systemd.exec(5)).
printf '%s\n' "$name" >"$mark.new"
mv "$mark.new" "$mark"
if [ -d "$data" ]; then rmdir "$data" || fail "$data is not empty"; fi
mv -T "$new/data" "$data"
sync -f "$data"
echo "seeded $name"
