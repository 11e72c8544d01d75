"""New keys and certificates without an outage: trusted beside the old, used, the old no longer trusted.

API server, kubelets and the API server's client certificate trust each other by pinning exactly the other's. So all
must trust the new ones before anybody shows them, and the old ones until nobody does. Where a rotation stands follows
from keys/ alone (see ``stages``); each step may be done again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import Workspace
from smallkube.deploy.report import Watcher
from smallkube.deploy.rollout import roll_out
from smallkube.inventory.models import Inventory
from smallkube.operations import certificate_clients
from smallkube.operations.certificate_plan import Plan
from smallkube.remote.host import Connect
from smallkube.secrets import change, policy, staged
from smallkube.secrets.change import Contents
from smallkube.secrets.staged import Stage
from smallkube.secrets.store import Keys, changing_keys, read_keys

_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Rotation:
    """What it takes to carry out a plan; ``seconds``: how long pods and kubelets may take to follow."""

    workspace: Workspace
    inventory: Inventory
    connect: Connect
    watcher: Watcher
    seconds: int

    def execute(self, plan: Plan, step: Callable[[str], object], *, pause: bool) -> Stage:
        """Carry out ``plan``, or with ``pause`` only until all trust the new certificates; the stage that is reached.

        Raises SmallkubeError at a step that failed: the same again goes on from there.
        """
        rows, stage = plan.rows, plan.stage
        if stage is Stage.ONE:
            step("make new keys and certificates")
            self._write(lambda _: staged.begun(rows, datetime.now(UTC)))
            stage = Stage.TRUSTED
        if stage is Stage.TRUSTED and not plan.back:
            step("deploy trust in the new ones")
            self._deploy()
            step("wait until pods trust the new one")
            self._await_pods(plan)
            if pause:
                return stage
            step("switch to the new ones")
            self._write(lambda keys: staged.switched(rows, keys))
            stage = Stage.SWITCHED
        elif stage is Stage.SWITCHED and plan.back:
            step("switch back to the old ones")
            self._write(lambda keys: staged.switched_back(rows, keys))
        if stage is Stage.SWITCHED:
            step("deploy those in use")
            self._deploy()
            step("see them in use")
            self._await_shown()
        if stage is not Stage.ENDING:
            self._write(lambda keys: staged.untrusted(rows, keys))
        step("deploy trust in those in use alone")
        self._deploy()
        step("see them in use again")
        self._await_shown()
        self._write(lambda keys: staged.ended(rows, keys))
        return Stage.ONE

    def _write(self, contents: Callable[[Keys], Contents]) -> None:
        with changing_keys(self.workspace):
            change.apply(self.workspace, self.inventory, contents(read_keys(self.workspace)))

    def _deploy(self) -> None:
        roll_out(self.workspace, self.inventory, self.inventory.nodes, self.watcher)

    def _await_pods(self, plan: Plan) -> None:
        """The kubelet brings ca.crt up to date when the controller manager has published it."""
        if policy.API_CERTIFICATE not in plan.files:
            return
        new = policy.api_certificate(self.inventory).beside(policy.NEW)
        pem = read_keys(self.workspace).certificates[new.file]
        missing = partial(certificate_clients.without, self.inventory, self.connect, pem)
        self._await(missing, "without the API server's new certificate in ca.crt")

    def _await_shown(self) -> None:
        certificates = read_keys(self.workspace).certificates
        missing = partial(certificate_clients.mismatched_certificates, self.inventory, self.connect, certificates)
        self._await(missing, "not with the certificates in keys/")

    def _await(self, missing: Callable[[], list[str]], what: str) -> None:
        deadline = time.monotonic() + self.seconds
        while found := missing():
            if time.monotonic() > deadline:
                hint = "old and new are trusted still; run the same command again when it is mended, or --abort"
                raise SmallkubeError(f"{what}: {', '.join(found)}", hint=hint)
            time.sleep(_POLL_SECONDS)
