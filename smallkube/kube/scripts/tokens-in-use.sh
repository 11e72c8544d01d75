#!/bin/sh
# Prints which tokens clients on this machine use, lines CLIENT SHA256: tokens-in-use.sh [CLIENT FILE]...
# FILE is a path, or %d/NAME for a credential of the service CLIENT. "-" in place of SHA256: the service started before
# its file was last written. A client whose file does not exist is left out.
set -eu

# A token, or one line of a kubeconfig: JSON in jq's layout, or the YAML that mkkubeconfig wrote previously.
sha256_of() {
  token=$(sed -n 's/^ *"\{0,1\}token"\{0,1\}: "\(.*\)"$/\1/p' "$1")
  printf %s "${token:-$(cat "$1")}" | tr -d '\n' | sha256sum | cut -d ' ' -f 1
}

while [ "$#" -ge 2 ]; do
  client=$1 file=$2
  shift 2
  case $file in
    # What systemd gave to a service when it started is what it uses.
    %d/*) file=/run/credentials/$client.service/${file#%d/} ;;
    *)
      if systemctl --quiet is-active "$client.service"; then
        started=$(systemctl show --property ActiveEnterTimestamp --timestamp=unix --value "$client.service")
        if [ -e "$file" ] && [ "$(stat -c %Y "$file")" -gt "${started#@}" ]; then
          echo "$client -"
          continue
        fi
      elif [ "$(systemctl show --property LoadState --value "$client.service")" != not-found ]; then
        continue # a service that does not run uses none; root is no service
      fi
      ;;
  esac
  if [ -e "$file" ]; then echo "$client $(sha256_of "$file")"; fi
done
