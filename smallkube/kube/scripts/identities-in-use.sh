#!/bin/sh
# How services of this node identify themselves to the API server: identities-in-use.sh UNIT...
# Reads what the running process was started with, lines UNIT SHA256 (of its certificate in DER) or UNIT token.
set -eu

for unit; do
  pid=$(systemctl show --property MainPID --value "$unit.service")
  if [ "$pid" = 0 ] || ! [ -r "/proc/$pid/cmdline" ]; then continue; fi
  # CoreDNS names its kubeconfig in its configuration.
  words=$(tr '\0' '\n' <"/proc/$pid/cmdline")
  corefile=$(printf '%s\n' "$words" | sed -n 's/^-conf=//p')
  if [ -n "$corefile" ]; then
    kubeconfig=$(sed -n 's/^ *kubeconfig \(.*\)$/\1/p' "$corefile")
  else
    kubeconfig=$(printf '%s\n' "$words" | sed -n 's/^--kubeconfig=//p')
  fi
  case $kubeconfig in
    # It is one that builtins.toJSON wrote (nix/modules/lib.nix); no other program changes it.
    /nix/store/*) certificate=$(grep -o '"client-certificate":"[^"]*"' "$kubeconfig" | cut -d '"' -f 4) ;;
    *) certificate= ;;
  esac
  if [ -n "$certificate" ]; then
    echo "$unit $(sed '/^-----/d' "$certificate" | base64 -d | sha256sum | cut -d ' ' -f 1)"
  else
    echo "$unit token"
  fi
done
