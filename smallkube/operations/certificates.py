"""New keys and certificates without an outage: trusted beside the previous ones, used, the previous no longer trusted.

API server, kubelets and the API server's client certificate trust each other by pinning exactly the other's. So all
must trust the new ones before anybody shows them, and the previous ones until nobody does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from smallkube.core.errors import SmallkubeError
from smallkube.core.polling import wait_until
from smallkube.inventory.cluster import Cluster
from smallkube.operations import certificate_clients
from smallkube.operations.engine import Operation, Step, not_abortable
from smallkube.remote.host import Connect
from smallkube.secrets import change, policy, staged
from smallkube.secrets.change import Contents
from smallkube.secrets.policy import Secret
from smallkube.secrets.staged import Stage
from smallkube.secrets.store import Keys, changing_keys, read_keys

NAME = "certificates"


@dataclass(frozen=True)
class Rotation:
    """What it takes to replace ``rows``; ``seconds``: how long pods and kubelets may take to follow."""

    cluster: Cluster
    rows: tuple[Secret, ...]
    connect: Connect
    deploy: Callable[[], object]
    seconds: int

    def operation(self, keys: Keys, *, abort: bool, pause: bool) -> Operation:
        """The steps; with ``pause`` only until all trust the new ones. Raises UsageError when it can't be aborted."""
        if abort and not (self.rows and self._at(Stage.TRUSTED, Stage.SWITCHED)(keys)):
            raise not_abortable(retired=bool(self.rows) and self._at(Stage.ENDING)(keys))
        rows = self.rows
        if abort:
            steps: tuple[Step, ...] = (
                Step(
                    "use the previous certificates again",
                    lambda: self._write(staged.switched_back, Stage.SWITCHED),
                    self._at(Stage.TRUSTED, Stage.ENDING),
                ),
            )
        else:
            steps = (
                Step(
                    f"issue new keys and certificates for {', '.join(self.files)}",
                    lambda: self._write(lambda rows, _: staged.begun(rows, datetime.now(UTC)), Stage.ONE),
                    self._at(Stage.TRUSTED, Stage.SWITCHED, Stage.ENDING),
                ),
                Step("deploy: the new certificates are trusted as well", self.deploy),
                Step("wait until every pod trusts the API server's new certificate", self._await_pods),
                Step(
                    "use the new certificates, keep the previous trusted",
                    lambda: self._write(staged.switched, Stage.TRUSTED),
                    self._at(Stage.SWITCHED, Stage.ENDING),
                ),
            )
        if pause:
            steps = steps[:-1]
        else:
            steps += (
                Step("deploy: they are used, the others still trusted", self.deploy),
                Step("verify that the API server and every kubelet use them", self._await_used),
                Step(
                    "stop trusting the others",
                    lambda: self._write(staged.untrusted, Stage.TRUSTED, Stage.SWITCHED),
                    self._at(Stage.ENDING),
                ),
                Step("deploy: only those in use are trusted", self.deploy),
                Step("verify again that they are used", self._await_used),
                Step("delete the others' keys", lambda: self._write(staged.ended, Stage.ENDING)),
            )
        return Operation(NAME, steps, lambda now: any(staged.of(row, now) is not Stage.ONE for row in rows))

    @property
    def files(self) -> tuple[str, ...]:
        """The certificates that it concerns."""
        return tuple(row.certificate.file for row in self.rows if row.certificate)

    @property
    def stage(self) -> Stage:
        """How far the rotation has come, by keys/."""
        return staged.of(self.rows[0], read_keys(self.cluster.workspace))

    def _at(self, *stages: Stage) -> Callable[[Keys], bool]:
        return lambda now: all(staged.of(row, now) in stages for row in self.rows)

    def _write(self, contents: Callable[[tuple[Secret, ...], Keys], Contents], *stages: Stage) -> None:
        """Change keys/ where they are at one of ``stages``; else they are further already."""
        with changing_keys(self.cluster.workspace):
            keys = read_keys(self.cluster.workspace)
            if self._at(*stages)(keys):
                change.apply(self.cluster, contents(self.rows, keys))

    def _await_pods(self) -> None:
        """The kubelet brings ca.crt up to date when the controller manager has published it."""
        if policy.API_CERTIFICATE not in self.files:
            return
        new = policy.api_certificate(self.cluster.inventory).version(policy.NEW)
        pem = read_keys(self.cluster.workspace).certificates[new.file]
        missing = partial(certificate_clients.without, self.cluster.inventory, self.connect, pem)
        wait_until(missing, self.seconds, partial(_waiting, "without the API server's new certificate in ca.crt"))

    def _await_used(self) -> None:
        certificates = read_keys(self.cluster.workspace).certificates
        missing = partial(
            certificate_clients.mismatched_certificates, self.cluster.inventory, self.connect, certificates
        )
        wait_until(missing, self.seconds, partial(_waiting, "not with the certificates in keys/"))


def _waiting(what: str, missing: str) -> SmallkubeError:
    hint = "both are still trusted; run the same command again when it is fixed, or --abort"
    return SmallkubeError(f"{what}: {missing}", hint=hint)
