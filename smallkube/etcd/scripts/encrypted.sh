#!/bin/sh
# How a value begins in etcd, and by which key it should be encrypted: encrypted.sh ENDPOINT KEY ENCRYPTION_CONFIGURATION
# Prints the value up to the name of the key (nothing of its content), and on a second line the name of the first key.
etcdctl --endpoints "$1" --command-timeout 10s get "$2" --print-value-only | head -c 80 | tr -d '\0\n' | cut -d : -f 1-5 |
  grep -a -o '^k8s:enc:[a-z]*:v1:[A-Za-z0-9._-]*' || echo clear
encryption_keys "$3" | sed 's/^[^ ]* //; q'
