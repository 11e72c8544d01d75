#!/bin/sh
# Says which tokens the clients on this machine use: lines UNIT SHA256, "-" for a unit that has not taken up its file yet.
set -eu

# One line of a kubeconfig: JSON in jq's layout, or the YAML that mkkubeconfig wrote previously.
token_of() {
  sed -n 's/^ *"\{0,1\}token"\{0,1\}: "\(.*\)"$/\1/p' "$1" | tr -d '\n' | sha256sum | cut -d ' ' -f 1
}

# What systemd gave to a service when it started is what it uses; the kubelet reads the file itself, when it starts.
for unit in kube-proxy coredns; do
  given=/run/credentials/$unit.service/kubeconfig
  if [ -e "$given" ]; then echo "$unit $(token_of "$given")"; fi
done
if systemctl --quiet is-active kubelet.service; then
  started=$(systemctl show --property ActiveEnterTimestamp --timestamp=unix --value kubelet.service)
  if [ "$(stat -c %Y /run/kubeconfig-node)" -gt "${started#@}" ]; then
    echo "kubelet -"
  else
    echo "kubelet $(token_of /run/kubeconfig-node)"
  fi
fi
for unit in kube-scheduler kube-controller-manager; do
  given=/run/credentials/$unit.service/kube_token_system_$unit
  if [ -e "$given" ]; then echo "$unit $(tr -d '\n' <"$given" | sha256sum | cut -d ' ' -f 1)"; fi
done
if [ -e /run/kubeconfig-root ]; then echo "root $(token_of /run/kubeconfig-root)"; fi
