# shellcheck shell=sh
# What the scripts in this folder share: it is put before each of them.
set -eu
export LC_ALL=C
# cron and an empty environment have too few folders; NixOS has its programs in the first of these.
export PATH="${PATH:+$PATH:}/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

fail() {
  echo "$*" >&2
  exit 1
}

last_line() { # of a program's output in FILE
  tail -n 1 "$1" | cut -c 1-300
}

# Standard input as JSON: a list with a string for each line.
json_lines() {
  printf '[%s]' "$(tr -d '\000-\011\013-\037' | sed 's/[\\"]/\\&/g; s/.*/"&"/' | paste -s -d , -)"
}

# Lines "SHA256 NAME" for the keys of an EncryptionConfiguration, word by word, so that any layout of YAML will do which
# kinds.validate accepts. The secrets themselves do not leave this machine.
encryption_keys() {
  name='' hash='' previous=''
  sed 's/\(^\|[[:space:]]\)#.*//' "$1" | tr -s '[:space:][]{},:"'\' '\n' | while read -r word; do
    case $word in [\|\>\!\&]*) continue ;; esac # before a value: a block of text, a tag, an anchor
    case $previous in
    name) name=$word word='' ;;
    secret) hash=$(printf %s "$word" | sha256sum | cut -d ' ' -f 1) word='' ;;
    keys) name='' hash='' ;;
    esac
    previous=$word
    if [ "$name" ] && [ "$hash" ]; then
      echo "$hash $name"
      name='' hash=''
    fi
  done
}
