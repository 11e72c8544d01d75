"""Requests with tokens, again and again, while something is done to the cluster."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.cluster.conftest import Cluster

KUBECTL = "/run/current-system/sw/bin/kubectl"


@dataclass
class Load:
    """What each client was answered: "ok", "refused" (401) or "down" (no answer at all)."""

    cluster: Cluster
    answers: dict[str, list[str]] = field(default_factory=dict)

    def counted(self, client: str) -> Counter[str]:
        return Counter(self.answers[client])

    @contextmanager
    def running(self, clients: Mapping[str, tuple[str, str]]) -> Iterator["Load"]:
        """``clients``: name → node and kubeconfig there, which is read anew for each request."""
        stop = threading.Event()

        def ask(name: str, node: str, kubeconfig: str) -> None:
            self.answers[name] = []
            argv = [KUBECTL, "--kubeconfig", kubeconfig, "--request-timeout=5s", "get", "--raw", "/api"]
            while not stop.is_set():
                done = self.cluster.machine(node).execute(argv, seconds=20)
                word = "ok" if done.returncode == 0 else "refused" if "Unauthorized" in done.stderr else "down"
                self.answers[name].append(word)
                time.sleep(0.1)

        threads = [threading.Thread(target=ask, args=(name, *where)) for name, where in clients.items()]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            stop.set()
            for thread in threads:
                thread.join()
