#!/bin/sh
# Runs in a pod, with busybox: tries what standard input lists, all at once, three seconds each.
# Lines NUMBER KIND ARGUMENT...; prints lines NUMBER ok|FAULT.
folder=$(mktemp -d)
account=/var/run/secrets/kubernetes.io/serviceaccount

try() {
  case $1 in
    http) [ "$(wget -q -T 3 -O - "$2" 2>"$3")" = "$4" ] ;;
    serves) wget -q -T 3 -O /dev/null "$2" 2>"$3" ;;
    connect) nc -w 3 "$2" "$4" </dev/null >/dev/null 2>"$3" ;;
    name) nslookup "$2" >"$3" 2>&1 && grep -q -F "$4" "$3" ;;
    search) grep -q "^search .*$2" /etc/resolv.conf ;;
    api)
      token=$(cat "$account/token")
      wget -q -T 5 --no-check-certificate -O /dev/null --header "Authorization: Bearer $token" "$2" 2>"$3"
      ;;
  esac
}

while read -r number kind first rest; do
  {
    # shellcheck disable=SC2086 # words of ours
    if try "$kind" "$first" "$folder/$number" $rest; then
      echo "$number ok"
    else
      said=$(grep -v '^$' "$folder/$number" | tail -n 1 | cut -c 1-120)
      echo "$number ${said:-another answer than expected}"
    fi
  } &
done
wait
rm -rf "$folder"
