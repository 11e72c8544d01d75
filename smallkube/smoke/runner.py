"""Runs the checks that are wanted, in the order of the table, and cleans up whatever happens."""

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.models import Inventory
from smallkube.remote.host import Connect
from smallkube.smoke import control, objects, pods, probes
from smallkube.smoke.context import NotReached, Options, SmokeContext
from smallkube.smoke.report import Outcome, Result, ordered

Work = Callable[[SmokeContext], str]

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
        name: partial(probes.by_pods, check=name)
        for name in ("network.ipv6", "network.ipv4", "network.service", "network.hairpin", "network.api")
    },
    "network.host": partial(pods.from_machines, check="network.host"),
    "network.nodeport": partial(pods.from_machines, check="network.nodeport"),
    "dns.services": partial(probes.by_pods, check="dns.services"),
    "dns.nodes": partial(probes.by_pods, check="dns.nodes"),
    "dns.servers": partial(pods.from_machines, check="dns.servers"),
    "egress.internet": partial(probes.by_pods, check="egress.internet"),
    "secrets.encrypted": pods.encrypted,
}


CLEANING_SECONDS = 90
"""What cleaning up may take after the time for everything is over."""


class Run:
    """One run. ``step`` is told each check as it begins."""

    def __init__(self, context: SmokeContext, wanted: Sequence[str], step: Callable[[str], object]) -> None:
        self.context, self.wanted, self.step = context, wanted, step
        self.results: list[Result] = []
        self.begun = False
        context.deadline = time.monotonic() + context.options.timeout

    def checks(self) -> None:
        """All but the cleaning up."""
        for name, work in WITHOUT_API.items():
            if name == "api.certificate" and self.context.inventory.cluster.api.tls != "pinned":
                self._note(name, "skipped", "cluster.api.tls is insecure")
            else:
                self._check(name, work)
        if not set(self.wanted) & {*WITH_API, "pods.rollout", *WITH_PODS}:
            return
        if reason := self._no_api():
            self.unreached(reason, (*WITH_API, "pods.rollout", *WITH_PODS))
            return
        for name, work in WITH_API.items():
            self._check(name, work)
        if set(self.wanted) & {"pods.rollout", *WITH_PODS}:
            self._with_pods()

    def _no_api(self) -> str:
        try:
            return "" if self.context.readyz.ok else "the API server is not ready"
        except SmallkubeError as error:
            return error.message

    def _with_pods(self) -> None:
        self.begun = True
        self._check("pods.rollout", pods.prepare, always=True)
        for name, work in WITH_PODS.items():
            if name == "egress.internet" and not self.context.options.egress:
                self._note(name, "skipped", "no --egress HOST:PORT given")
            else:
                self._check(name, work, always=name == "kubelet.exec" and bool(self.context.pods))

    def failed_with_pods(self) -> bool:
        """Whether something failed that the pods' own events and logs may explain."""
        return any(one.outcome == "failed" and one.check in ("pods.rollout", *WITH_PODS) for one in self.results)

    def clean(self) -> None:
        """Remove what was made, unless it is to be kept."""
        if not self.begun:
            self._note("cleanup.done", "skipped", "nothing was made")
        elif self.context.options.keep:
            kept = f"kept: namespace {self.context.namespace}; the next run removes it"
            self._note("cleanup.done", "skipped", kept)
        else:
            self.context.deadline = time.monotonic() + CLEANING_SECONDS
            self._check("cleanup.done", pods.clean, always=True)

    def unreached(self, reason: str, names: Sequence[str]) -> None:
        """None of these can be made."""
        for name in names:
            self._note(name, "not reached", reason)

    def _check(self, name: str, work: Work, *, always: bool = False) -> None:
        """``always``: others need what it does, wanted or not."""
        if name not in self.wanted and not always:
            return
        began = time.monotonic()
        if began > self.context.deadline:
            self._note(name, "not reached", f"--timeout {self.context.options.timeout} is over")
            return
        self.step(name)
        try:
            self._note(name, "ok", work(self.context), began)
        except NotReached as error:
            self._note(name, "not reached", error.message, began)
        except SmallkubeError as error:
            self._note(name, "failed", error.message, began)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._note(name, "failed", f"the answer can't be understood: {error!r}"[:200], began)

    def _note(self, name: str, outcome: Outcome, message: str, began: float | None = None) -> None:
        if name in self.wanted:
            seconds = 0.0 if began is None else time.monotonic() - began
            self.results.append(Result(name, outcome, round(seconds, 2), message))


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

    Raises UsageError when what is needed to reach the primary is missing here.
    """
    with ExitStack() as stack:
        name = f"{objects.MARK}-{secrets.token_hex(4)}"
        context = SmokeContext(inventory, connect, options, certificate, name, stack)
        current = Run(context, wanted, step)
        try:
            context.machine(inventory.primary)
        except UsageError:
            raise
        except SmallkubeError as error:
            current.unreached(str(error), wanted[:1])
            current.unreached("the primary can't be reached", wanted[1:])
            return ordered(current.results)
        try:
            current.checks()
            if current.failed_with_pods():
                with suppress(SmallkubeError):
                    explain(pods.evidence(context))
        finally:
            current.clean()
    return ordered(current.results)
