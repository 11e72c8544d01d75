#!/bin/sh
# Removes what this machine no longer needs, and says what that is, as JSON.
#   gc.sh facts                 generations, what must stay, a deploy under way, images and containers; changes nothing
#   gc.sh measure NUMBERS...    what the Nix store has too much, without these generations; changes nothing
#   gc.sh store NUMBERS...      deletes these generations, their boot entries, and store paths that are unused
#   gc.sh images                removes container images that no container uses
set -eu
profile=/nix/var/nix/profiles/system
lock=/run/smallkube/lock

crictl() { command crictl --runtime-endpoint unix:///run/crio/crio.sock --timeout 60s "$@"; }
json() { # NAME COMMAND...: its answer, null without one
  name=$1
  shift
  number "$name" "$("$@" 2>/dev/null || true)"
}
facts() {
  string system "$(readlink -f /run/current-system)"
  string booted "$(readlink -f /run/booted-system)"
  string rollback "$(readlink -f /nix/var/nix/gcroots/smallkube-rollback)"
  string current "$(readlink "$profile" | sed 's/[^0-9]//g')"
  for link in "$profile"-*-link; do
    generation=${link#"$profile-"}
    if [ -e "$link" ]; then printf '"%s": "%s"\n' "${generation%-link}" "$(readlink -f "$link")"; fi
  done | paste -s -d , - | {
    printf ', "systems": {'
    cat
    printf '}'
  }
  list armed "$(systemctl list-units --plain --no-legend 'smallkube-rollback-*.timer' 'smallkube-rollback-*.service' \
    2>/dev/null | awk '{ print $1 }')"
  string owner "$(find "$lock" -maxdepth 0 -mmin -15 -exec cat '{}/owner' ';' 2>/dev/null)"
  json images crictl images --output json
  json containers crictl ps --all --output json
}

# Store paths that are dead now, and those that only the generations keep alive.
disposable() { # NUMBERS...
  nix-store --gc --print-dead 2>/dev/null
  [ $# -gt 0 ] || return 0
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  for generation; do echo "$profile-$generation-link"; done >"$folder/links"
  nix-store --gc --print-roots 2>/dev/null | awk -v folder="$folder" '
    NR == FNR { goes[$0]; next }
    { at = index($0, " -> "); print substr($0, at + 4) > folder ((substr($0, 1, at - 1) in goes) ? "/old" : "/kept") }
  ' "$folder/links" -
  for which in old kept; do
    touch "$folder/$which"
    xargs -r nix-store --query --requisites <"$folder/$which" 2>/dev/null | LC_ALL=C sort -u >"$folder/$which.all"
  done
  LC_ALL=C comm -23 "$folder/old.all" "$folder/kept.all"
}
measure() { # NUMBERS...
  disposable "$@" | sort -u | xargs -r -n 100 nix-store --query --size 2>/dev/null |
    awk '{ sum += $1 } END { printf ", \"paths\": %d, \"bytes\": %.0f", NR, sum }'
}

free_kib() { df -Pk "$1" 2>/dev/null | awk 'NR == 2 { found = $4 } END { print found + 0 }'; }
quietly() { # COMMAND...: its last lines only if it fails
  output=$({ "$@" 2>&1 || echo "failed"; } | tail -n 3)
  case $output in
  *failed)
    echo "$1: $output" | tr '\n' ' ' >&2
    exit 1
    ;;
  esac
}
# The boot loader comes before the store: an entry must not lead to a system that is gone.
store() { # NUMBERS...
  before=$(free_kib /nix/store)
  if [ $# -gt 0 ]; then quietly nix-env --profile "$profile" --delete-generations "$@"; fi
  export NIXOS_NO_CHECK=1
  quietly "$profile/bin/switch-to-configuration" boot
  quietly nix-collect-garbage
  number freed "$(($(free_kib /nix/store) - before))"
}
# Images of containers that have ended stay too, and so do pinned ones, such as that of the pods' sandboxes.
images() {
  before=$(free_kib /var/lib/containers)
  quietly crictl rmi --prune
  number freed "$(($(free_kib /var/lib/containers) - before))"
}

begin gc
what=$1
shift
case $what in
facts | measure | store | images) "$what" "$@" ;;
esac
end
