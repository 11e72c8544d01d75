"""New keys and certificates without an outage: both are trusted, the new ones used, the previous ones not trusted.

API server, kubelets and the API server's client certificate trust each other by pinning exactly the other's. So all
must trust the new ones before they are used, and the previous ones until they are not.
"""

import datetime
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.polling import wait_until
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory
from smallkube.operations import trust_facts
from smallkube.operations.engine import Operation, Step, not_abortable
from smallkube.remote.host import Connect
from smallkube.secrets import certificates, kinds, policy, staged, transaction
from smallkube.secrets.age import read_master
from smallkube.secrets.policy import Secret
from smallkube.secrets.staged import Stage
from smallkube.secrets.transaction import Change, Keys, changing_keys, read_keys

NAME = "certificates"


@dataclass(frozen=True)
class Choice:
    """``renew``: key → why it and its certificate are replaced; ``kept``: how many have no problem."""

    renew: Mapping[Secret, tuple[str, ...]]
    kept: int


def choose(cluster: Cluster, nodes: Collection[str], *, everything: bool, now: datetime.datetime) -> Choice:
    """Which have a fault (or ``everything``); of ``nodes`` (names) when there are any.

    Whether a certificate is over its key is known only where the master is. Raises UsageError when a key is missing,
    SmallkubeError when one can't be opened: a deploy would fail of it.
    """
    keys, master = read_keys(cluster.workspace), read_master(cluster.workspace)
    renew, kept = {}, 0
    for row in policy.secrets_of(cluster.inventory):
        if row.certificate is None or (nodes and row.node not in nodes):
            continue
        if row.file not in keys.files:
            raise UsageError("missing", where=f"keys/{row.file}", hint="run `inv keys.generate`")
        plaintext = transaction.opened(keys, master, row) if master else None
        if plaintext is not None:
            kinds.validate(row.kind, plaintext, f"keys/{row.file}")
        pem = keys.certificates.get(row.certificate.file)
        why = certificates.complaints(pem, row.certificate, row.file, plaintext, now)
        if why or everything:
            renew[row] = tuple(why) or ("asked for",)
        else:
            kept += 1
    return Choice(renew, kept)


def under_way(inventory: Inventory, keys: Keys) -> tuple[Secret, ...]:
    """The keys whose certificates a rotation concerns that has not ended; none when there is none.

    Raises SmallkubeError when files in keys/ are such as no rotation leaves them.
    """
    rows = [row for row in policy.secrets_of(inventory) if row.certificate]
    found = {row: stage for row in rows if (stage := staged.of(row, keys)) is not Stage.ONE}
    if len(set(found.values())) > 1:
        stages = ", ".join(f"{row.name}: {stage}" for row, stage in found.items())
        raise SmallkubeError(f"certificates stand at different steps: {stages}", hint="restore keys/ from git")
    return tuple(found)


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
        at = self._at
        if abort and not (self.rows and at(Stage.TRUSTED, Stage.SWITCHED)(keys)):
            raise not_abortable(retired=bool(self.rows) and at(Stage.DEPLOY_PENDING)(keys))
        begin = Step(
            f"issue new keys and certificates for {', '.join(self.files)}",
            lambda: self._write(lambda rows: staged.begun(rows, datetime.datetime.now(datetime.UTC))),
            at(Stage.TRUSTED, Stage.SWITCHED, Stage.DEPLOY_PENDING),
        )
        trust = (
            begin,
            Step("deploy: the new certificates are trusted as well", self.deploy),
            Step("wait until every pod trusts the API server's new certificate", self._await_pods),
        )
        use = Step(
            "use the new certificates, keep the previous trusted",
            lambda: self._write(staged.switched),
            at(Stage.SWITCHED, Stage.DEPLOY_PENDING),
        )
        back = Step(
            "use the previous certificates again",
            lambda: self._write(staged.switched_back),
            at(Stage.TRUSTED, Stage.DEPLOY_PENDING),
        )
        end = (
            Step("deploy: they are used, the others still trusted", self.deploy),
            Step("verify that the API server and every kubelet use them", self._await_used),
            Step("stop trusting the others", lambda: self._write(staged.untrusted), at(Stage.DEPLOY_PENDING)),
            Step("deploy: only those in use are trusted", self.deploy),
            Step("verify again that they are used", self._await_used),
            Step("delete the others' keys", lambda: self._write(staged.ended)),
        )
        steps = (back, *end) if abort else trust if pause else (*trust, use, *end)
        return Operation(NAME, steps, lambda now: any(staged.of(row, now) is not Stage.ONE for row in self.rows))

    @property
    def files(self) -> tuple[str, ...]:
        """The certificates that it concerns."""
        return tuple(row.certificate.file for row in self.rows if row.certificate)

    @property
    def stage(self) -> Stage:
        """How far the rotation has come, by keys/."""
        return staged.of(self.rows[0], self._keys)

    @property
    def _keys(self) -> Keys:
        return read_keys(self.cluster.workspace)

    def _at(self, *stages: Stage) -> Callable[[Keys], bool]:
        return lambda keys: all(staged.of(row, keys) in stages for row in self.rows)

    def _write(self, contents: Callable[[tuple[Secret, ...]], Change]) -> None:
        with changing_keys(self.cluster.workspace):
            transaction.apply(self.cluster, contents(self.rows))

    def _await_pods(self) -> None:
        """The kubelet brings ca.crt up to date when the controller manager has published it."""
        if policy.API_CERTIFICATE in self.files:
            new = policy.api_certificate(self.cluster.inventory).version(policy.NEW)
            pem = self._keys.certificates[new.file]
            missing = partial(trust_facts.pods_without, self.cluster.inventory, self.connect, pem)
            wait_until(missing, self.seconds, partial(_waiting, "without the API server's new certificate in ca.crt"))

    def _await_used(self) -> None:
        pinned = self._keys.certificates
        missing = partial(trust_facts.mismatched_certificates, self.cluster.inventory, self.connect, pinned)
        wait_until(missing, self.seconds, partial(_waiting, "not with the certificates in keys/"))


def _waiting(what: str, missing: str) -> SmallkubeError:
    hint = "both are still trusted; run the same command again when it is fixed, or --abort"
    return SmallkubeError(f"{what}: {missing}", hint=hint)
