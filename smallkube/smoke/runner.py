"""Runs the checks that are wanted, in the order of the table, and cleans up whatever happens."""

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from smallkube.errors import SmallkubeError
from smallkube.inventory import Inventory
from smallkube.nodes.machine import Connect
from smallkube.smoke import control, pods, probes
from smallkube.smoke.report import NAMES, Result, ordered
from smallkube.smoke.scene import NotReached, Options, Scene

Work = Callable[[Scene], str]

WITHOUT_API: dict[str, Work] = {
    "etcd.health": control.etcd_health,
    "etcd.alarms": control.etcd_alarms,
    "api.ready": control.api_ready,
    "api.anonymous": control.api_anonymous,
    "api.certificate": control.api_certificate,
}
WITH_API: dict[str, Work] = {
    "nodes.inventory": control.nodes_inventory,
    "nodes.ready": control.nodes_ready,
    "nodes.versions": control.nodes_versions,
    "nodes.leases": control.nodes_leases,
    "control.scheduler": control.scheduler,
    "control.controllers": control.controllers,
}
WITH_PODS: dict[str, Work] = {
    "kubelet.logs": pods.logs,
    "kubelet.exec": pods.execute,
    **{
        name: partial(probes.answered, check=name)
        for name in ("network.ipv6", "network.ipv4", "network.service", "network.hairpin", "network.api")
    },
    "network.host": partial(probes.from_machines, check="network.host"),
    "network.nodeport": partial(probes.from_machines, check="network.nodeport"),
    "dns.services": partial(probes.answered, check="dns.services"),
    "dns.nodes": partial(probes.answered, check="dns.nodes"),
    "dns.servers": partial(probes.from_machines, check="dns.servers"),
    "egress.internet": partial(probes.answered, check="egress.internet"),
    "secrets.encrypted": pods.encrypted,
}


class Run:
    """One run. ``step`` is told each check as it begins."""

    def __init__(self, scene: Scene, wanted: Sequence[str], step: Callable[[str], object]) -> None:
        self.scene, self.wanted, self.step = scene, wanted, step
        self.results: list[Result] = []
        self.deadline = time.monotonic() + scene.options.timeout
        self.made = False

    def checks(self) -> None:
        """All but the cleaning up."""
        for name, work in WITHOUT_API.items():
            if name == "api.certificate" and self.scene.inventory.cluster.api.tls != "pinned":
                self._skip(name, "cluster.api.tls is insecure")
            else:
                self._check(name, work)
        if not self._api():
            for name in (*WITH_API, "pods.rollout", *WITH_PODS):
                self._note(name, "not reached", "the API server does not answer")
            return
        for name, work in WITH_API.items():
            self._check(name, work)
        if any(name in self.wanted for name in ("pods.rollout", *WITH_PODS)):
            self._with_pods()

    def _api(self) -> bool:
        try:
            return self.scene.ask("get", "--raw", "/readyz", seconds=10).ok
        except SmallkubeError:
            return False

    def _with_pods(self) -> None:
        self.made = True
        self._check("pods.rollout", pods.prepare, always=True)
        for name, work in WITH_PODS.items():
            if name == "egress.internet" and not self.scene.options.egress:
                self._skip(name, "no --egress HOST:PORT given")
            else:
                self._check(name, work, always=name == "kubelet.exec" and bool(self.scene.pods))

    def clean(self) -> None:
        """Remove what was made, unless it is to be kept."""
        if not self.made:
            self._skip("cleanup.done", "nothing was made")
        elif self.scene.options.keep:
            self._skip("cleanup.done", f"kept: namespace {self.scene.namespace}; the next run removes it")
        else:
            self.deadline = time.monotonic() + 90
            self._check("cleanup.done", pods.clean, always=True)

    def _check(self, name: str, work: Work, *, always: bool = False) -> None:
        """``always``: others need what it does, wanted or not."""
        if name not in self.wanted and not always:
            return
        began = time.monotonic()
        if began > self.deadline:
            self._note(name, "not reached", f"--timeout {self.scene.options.timeout} is over")
            return
        self.step(name)
        try:
            self._note(name, "ok", work(self.scene), time.monotonic() - began)
        except NotReached as error:
            self._note(name, "not reached", error.message, time.monotonic() - began)
        except SmallkubeError as error:
            self._note(name, "failed", error.message, time.monotonic() - began)

    def _skip(self, name: str, reason: str) -> None:
        self._note(name, "skipped", reason)

    def _note(self, name: str, outcome: object, message: str, seconds: float = 0.0) -> None:
        if name in self.wanted:
            self.results.append(Result(name, outcome, round(seconds, 2), message))  # type: ignore[arg-type]


def run(
    inventory: Inventory,
    connect: Connect,
    certificate: bytes | None,
    options: Options,
    wanted: Sequence[str],
    step: Callable[[str], object],
    explain: Callable[[str], object],
) -> tuple[Result, ...]:
    """Run the ``wanted`` checks; ``explain`` is given what may explain a failure, before it is gone.

    Raises SmallkubeError when the primary can't be reached.
    """
    with ExitStack() as stack:
        name = f"smallkube-smoke-{secrets.token_hex(4)}"
        scene = Scene(inventory, connect, options, certificate, name, stack)
        scene.machine(inventory.primary)
        current = Run(scene, wanted, step)
        try:
            current.checks()
            if current.made and any(result.outcome == "failed" for result in current.results):
                explain(pods.evidence(scene))
        finally:
            current.clean()
    missing = set(wanted) - {result.check for result in current.results}
    rest = [Result(check, "not reached", 0.0, "interrupted") for check in NAMES if check in missing]
    return ordered([*current.results, *rest])
