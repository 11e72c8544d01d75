"""Work that goes on while something is done to the cluster: requests to the API, and a pod that uses another one."""

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from tests.cluster.conftest import LabCluster, pod

Clients = Mapping[str, tuple[str, str]]
"""Name → node, and the shell's commands that ask the API server from there."""

DEADLINE = 10
"""Seconds after which a request is lost: so long the kubelet waits for the answer to a heartbeat (run in
cmd/kubelet/app/server.go: nodeStatusUpdateFrequency, by default 10 s). The traffic below has five: after so long
WireGuard repeats a handshake that was lost."""
_BEARER = ' --header "Authorization: Bearer $token"'
_SAID = "%{stderr}connected after %{time_connect} s, TLS %{time_appconnect} s, answer %{time_starttransfer} s\\n"
_CURL = (
    f"curl --silent --show-error --fail --max-time {DEADLINE} --write-out '{_SAID}' --output /dev/null --cacert $ca"
    f"{_BEARER} https://api.k8s.internal:6443/api"
)


def by_kubeconfig(node: str, file: str) -> tuple[str, str]:
    """A client with a kubeconfig, which is read anew for each request."""
    fields = '.users[0].user.token, .clusters[0].cluster."certificate-authority-data"'
    asked = f"ca=$(mktemp); base64 -d >$ca; {_CURL}; status=$?; rm $ca; exit $status"
    return node, f"jq -r '{fields}' {file} | {{ read -r token; {asked}; }}"


def by_token(node: str, token: str) -> tuple[str, str]:
    """A client that keeps this token, and does not verify the API server."""
    return node, f"token={token}; {_CURL.replace('--cacert $ca', '--insecure')}"


def by_identity(node: str) -> tuple[str, str]:
    """A client with the kubelet's certificate, as the system that was activated last has it.

    Between the moments in which a deploy brings the one and the other, key and certificate do not fit: then curl says
    58, that it can't use these files (curl(1)).
    """
    kubeconfig = "$(sed -n 's/.*--kubeconfig=\\([^ ]*\\).*/\\1/p' /etc/systemd/system/kubelet.service)"
    fields = '(.users[0].user | ."client-certificate", ."client-key"), .clusters[0].cluster."certificate-authority"'
    curl = _CURL.replace("--cacert $ca", "--cert $1 --key $2 --cacert $3").replace(_BEARER, "")
    asked = f"set -- $(jq -r '{fields}' {kubeconfig}); {curl}; status=$?"
    return node, f"until {asked}; [ $status -ne 58 ]; do sleep 0.1; done; exit $status"


def as_pod(cluster: LabCluster, namespace: str, name: str) -> tuple[str, str]:
    """A client with what the kubelet gives to this pod: busybox in it could not check the API server's certificate."""
    found = cluster.get("-n", namespace, "pod", name)
    folder = f"/var/lib/kubelet/pods/{found['metadata']['uid']}/volumes/kubernetes.io~projected/kube-api-access-*"
    return found["spec"]["nodeName"].split(".")[0], f"set {folder}; ca=$1/ca.crt; token=$(cat $1/token); {_CURL}"


def _word(status: int, said: str) -> str:
    if status == 0:
        return "ok"
    if "error: 401" in said:
        return "refused"
    # 403: the API server has just started and does not know its rules yet.
    return "untrusted" if "certificate" in said else "down"


@dataclass
class Load:
    """What each client was answered: "ok", "refused" (401), "untrusted" (certificates) or "down" (no answer at all)."""

    cluster: LabCluster
    answers: dict[str, list[str]] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)

    def judge(self, restarts: int) -> None:
        """All were answered, and nobody was ever turned away: but for ``restarts`` of the API server."""
        for client, answers in self.answers.items():
            found = Counter(answers)
            assert found["ok"] > 10, (client, found, self.said)
            assert found.keys() <= {"ok", "down"}, (client, found, self.said)
            gaps = [word for word, _ in groupby(answers)].count("down")
            assert gaps <= restarts, (client, answers, self.said)

    @contextmanager
    def running(self, clients: Clients) -> Iterator["Load"]:
        stop = threading.Event()

        def ask(name: str, node: str, script: str) -> None:
            while not stop.is_set():
                try:
                    done = self.cluster.machine(node).execute(["/bin/sh", "-c", script], seconds=20)
                except subprocess.TimeoutExpired as error:
                    self.answers[name].append("down")
                    self.said.add(str(error))
                    continue
                self.answers[name].append(_word(done.returncode, done.stderr))
                if done.returncode:
                    self.said.add(done.stderr)
                time.sleep(0.3)

        threads = [threading.Thread(target=ask, args=(name, *where)) for name, where in clients.items()]
        self.answers = {name: [] for name in clients}
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            stop.set()
            for thread in threads:
                thread.join()


STORE = """\
mkdir -p /www/cgi-bin
printf '#!/bin/sh\\ncat >/tmp/value\\nprintf "\\\\r\\\\n"\\ncat /tmp/value\\n' >/www/cgi-bin/put
chmod 755 /www/cgi-bin/put
exec httpd -f -p '[::]:8080' -h /www
"""
CLIENT = """\
until nc $0 8080 </dev/null; do sleep 0.2; done
number=0
while :; do
  number=$((number + 1))
  if found=$(wget -q -T 5 -O - --post-data $number http://$0:8080/cgi-bin/put) && [ "$found" = $number ]; then
    echo ok
  else
    echo "wrote $number, read $found"
  fi
  sleep 0.2
done
"""


@dataclass(frozen=True)
class Traffic:
    """A pod on node2 writes to one on node1 through a Service, and reads what it wrote.

    By the Service's address: while CoreDNS restarts, no name is known for a second.
    """

    cluster: LabCluster
    namespace: str

    def begin(self) -> None:
        service: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "store"},
            "spec": {"selector": {"app": "store"}, "ports": [{"port": 8080}]},
        }
        store = pod("store", "node1", "sh", "-c", STORE)
        self._apply(service, store)
        address = self.cluster.get("-n", self.namespace, "service", "store")["spec"]["clusterIP"]
        self._apply(pod("client", "node2", "sh", "-c", CLIENT, address))
        self.cluster.eventually("traffic", lambda: self._logs().startswith("ok"))

    def _apply(self, *objects: dict[str, Any]) -> None:
        for each in objects:
            each["metadata"]["namespace"] = self.namespace
        self.cluster.apply(*objects)

    def judge(self) -> None:
        """It goes on, and not one time was in vain."""
        before = self._logs().count("ok")
        self.cluster.eventually("traffic goes on", lambda: self._logs().count("ok") > before)
        found = Counter(self._logs().splitlines())
        assert set(found) == {"ok"}, found

    def _logs(self) -> str:
        return self.cluster.ask("-n", self.namespace, "logs", "client").stdout


@contextmanager
def busy(cluster: LabCluster, namespace: str, *, make: bool = True, left_out: Collection[str] = ()) -> Iterator[Load]:
    """Clients of every kind and traffic between pods while the block runs; the traffic is judged at its end.

    ``left_out``: nodes whose own requests are not made.
    ``namespace`` is made, or is there already and keeps what is put into it.
    """
    with cluster.namespace(namespace) if make else nullcontext():
        going = Traffic(cluster, namespace)
        going.begin()
        clients = {
            "root": by_kubeconfig("node1", "/run/kubeconfig-root"),
            **{node: by_identity(node) for node in ("node1", "node2") if node not in left_out},
            "pod": as_pod(cluster, namespace, "client"),
        }
        with Load(cluster).running(clients) as load:
            yield load
        going.judge()
