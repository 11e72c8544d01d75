#!/bin/sh
# Writes every object of some kinds again, so that the API server encrypts each with its first key:
#   rewrite.sh KUBECONFIG RESOURCE...
# Twenty of a namespace at a time, since each kubectl takes a tenth of a second; when one of them fails, one at a time:
# what was changed meanwhile is read again, what was deleted is skipped. Prints how many there were. What was just read
# needs no check by kubectl, which would download megabytes for it.
set -eu
umask 077
export KUBECONFIG="$1"
shift
folder=$(mktemp -d /run/smallkube-rewrite.XXXXXX)
trap 'rm -rf "$folder"' EXIT
trap 'exit 143' TERM INT HUP PIPE

replace() { # NAME...: those of "$space" that are there
  kubectl get "$resource" "$@" ${space:+--namespace "$space"} --ignore-not-found --request-timeout=30s \
    --output=json >"$folder/objects" 2>"$folder/error" </dev/null || return 1
  [ ! -s "$folder/objects" ] || kubectl replace --validate=false --request-timeout=30s --filename="$folder/objects" \
    >/dev/null 2>"$folder/error" </dev/null
}

replace_one() { # NAME
  tries=0
  until replace "$1" || grep -q NotFound "$folder/error"; do
    tries=$((tries + 1))
    if [ "$tries" -ge 5 ]; then
      echo "$resource $space/$1: $(tail -n 1 "$folder/error")" >&2
      exit 1
    fi
    sleep 1
  done
}

replace_held() {
  # shellcheck disable=SC2086  # the name of an object has no space
  [ -z "$names" ] || replace $names || for each in $names; do replace_one "$each"; done
  names='' held=0
}

count=0
for resource; do
  kubectl get "$resource" --all-namespaces --chunk-size=200 --request-timeout=60s \
    --output='jsonpath={range .items[*]}{.metadata.name}{" "}{.metadata.namespace}{"\n"}{end}' >"$folder/names"
  names='' held=0 space=''
  while read -r name namespace; do
    if [ "$namespace" != "$space" ] || [ "$held" -eq 20 ]; then
      replace_held
    fi
    space=$namespace names="$names $name" held=$((held + 1)) count=$((count + 1))
  done <"$folder/names"
  replace_held
done
echo "$count"
