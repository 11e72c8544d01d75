#!/bin/sh
# Runs in a pod, with busybox, or on a machine: tries what standard input lists, 64 at once, each again until it works
# or so many seconds have passed: probe.sh SECONDS
# Lines NUMBER KIND ARGUMENT...; prints lines NUMBER ok|FAULT.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
account=/var/run/secrets/kubernetes.io/serviceaccount
last=$(($(date +%s) + $1))

# Busybox writes "Address: X", its older releases "Address 1: X NAME"; the line of the server itself has a port.
has_address() {
  awk -v wanted="$1" '$1 == "Address:" && $2 == wanted || $1 == "Address" && $3 == wanted { found = 1 }
    END { exit !found }' "$2"
}

# resolve SAID NAME ADDRESS...: the name has all these addresses
resolve() {
  said=$1
  timeout 10 nslookup "$2" >"$said" 2>&1 || return
  shift 2
  for address; do has_address "$address" "$said" || return; done
}

# once KIND SAID ARGUMENT...: what is said goes into a file
once() {
  kind=$1 said=$2
  shift 2
  case $kind in
    http) [ "$(wget -q -T 3 -O - "$1" 2>"$said")" = "$2" ] ;;
    serves) wget -q -T 3 -O /dev/null "$1" 2>"$said" ;;
    known)
      # The name alone is asked about: that nobody answers at its address is another check's matter.
      timeout 10 wget -q -T 3 -O /dev/null "$1" 2>"$said" ||
        { grep -q . "$said" && ! grep -q 'bad address' "$said"; }
      ;;
    connect) timeout 10 nc -w 3 "$1" "$2" </dev/null >/dev/null 2>"$said" ;;
    name) resolve "$said" "$@" ;;
    api)
      token=$(cat "$account/token")
      wget -q -T 3 --no-check-certificate -O /dev/null --header "Authorization: Bearer $token" "$1" 2>"$said"
      ;;
    fetch) curl --silent --show-error --fail --max-time 3 --output /dev/null "$1" 2>"$said" ;;
    server)
      case $3 in *:*) type=AAAA ;; *) type=A ;; esac
      dig +short +time=2 +tries=1 "@$1" "$2" "$type" >"$said" 2>&1
      grep -q -x -F "$3" "$said"
      ;;
    unknown)
      # Another answer than NXDOMAIN makes a resolver try again for seconds.
      dig +noall +comments +time=2 +tries=1 "@$1" "$2" A 2>&1 |
        sed -n 's/.*\(status: [A-Z]*\).*/\1/p; s/^;; \(.* server.*\)/\1/p' >"$said"
      grep -q -x 'status: NXDOMAIN' "$said"
      ;;
    own)
      # In a pod a loopback address is the pod.
      for name in "$(uname -n)" "$(hostname -f 2>/dev/null)"; do
        case $name in "" | localhost | localhost.*) continue ;; esac
        for type in A AAAA; do
          dig +noall +answer +time=2 +tries=1 "@$1" "$name" "$type" >"$said" 2>&1 || return
          ! grep -q -E '[[:space:]](127\.[0-9.]+|::1)$' "$said" || return
        done
      done
      ;;
  esac
}

try() {
  until once "$@"; do
    [ "$(date +%s)" -lt "$last" ] || return
    sleep 0.3 2>/dev/null || sleep 1
  done
}

started=0
while read -r number kind rest; do
  {
    # shellcheck disable=SC2086 # words of ours
    if try "$kind" "$folder/$number" $rest; then
      echo "$number ok"
    else
      fault=$(grep -v '^$' "$folder/$number" | tail -n 1 | cut -c 1-120)
      echo "$number ${fault:-another answer than expected}"
    fi
  } &
  started=$((started + 1))
  [ $((started % 64)) -ne 0 ] || wait
done
wait
