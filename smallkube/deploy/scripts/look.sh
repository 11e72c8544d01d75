#!/bin/sh
# What there is on this machine, as KEY=VALUE lines: look.sh BUNDLE_DIGEST SCRIPTS_DIGEST. Changes nothing.
set -u
home=/var/lib/smallkube

here() { if [ -d "$1" ]; then echo yes; else echo no; fi; }
free_kib() { df -Pk "$1" 2>/dev/null | awk 'NR == 2 { print $4 }'; }

echo "bundle=$(here "$home/bundles/$1")"
echo "scripts=$(here "$home/scripts/$2")"
host_key=/etc/ssh/ssh_host_ed25519_key
echo "host_key=$(ssh-keygen -y -f "$host_key" 2>/dev/null </dev/null || cat "$host_key.pub" 2>/dev/null)"
echo "time=$(date +%s)"
echo "store_free_kib=$(free_kib /nix/store)"
echo "state_free_kib=$(free_kib /var/lib)"
echo "system=$(readlink -f /run/current-system)"
echo "profile=$(readlink -f /nix/var/nix/profiles/system)"
echo "generation=$(readlink /nix/var/nix/profiles/system | sed 's/[^0-9]//g')"
deployed=$(grep -v '"outcome": "\(failed\|rolled back\|unknown\)"' "$home/history.jsonl" 2>/dev/null | tail -n 1)
echo "deployed=$(echo "$deployed" | sed -n 's/.*"digest": "\([0-9a-f]*\)".*/\1/p')"
echo "failed=$(systemctl list-units --state=failed --plain --no-legend 2>/dev/null | awk '{ print $1 }' | tr '\n' ' ')"
running='smallkube-rollback-*.timer smallkube-rollback-*.service'
# shellcheck disable=SC2086 # two patterns
echo "armed=$(systemctl list-units --plain --no-legend $running 2>/dev/null | awk '{ print $1 }' | tr '\n' ' ')"
