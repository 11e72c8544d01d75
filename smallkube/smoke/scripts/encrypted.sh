#!/bin/sh
# How a value begins in etcd, and by which key it should be encrypted: encrypted.sh ENDPOINT KEY ENCRYPTION_CONFIGURATION
# Prints the value up to the name of the key (nothing of its content), and on a second line the name of the first key.
set -eu
export LC_ALL=C
etcdctl --endpoints "$1" --command-timeout 10s get "$2" --print-value-only | head -c 80 | tr -d '\0\n' | cut -d : -f 1-5 | cut -c 1-60 |
  grep -a -o '^k8s:enc:[a-z]*:v1:[A-Za-z0-9._-]*' || echo clear
sed -n 's/^[- ]*name: *//p' "$3" | head -n 1
