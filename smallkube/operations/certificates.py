"""New keys and certificates without an outage: both are trusted, the new ones used, the previous ones not trusted.

API server, kubelets and the API server's client certificate trust each other by pinning exactly the other's. So all
must trust the new ones before they are used, and the previous ones until they are not.
"""

import datetime
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from smallkube.core.errors import SmallkubeError
from smallkube.core.polling import wait_until
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory
from smallkube.kube.identities import SECONDS, in_use, sha256
from smallkube.kube.members import kubectl
from smallkube.operations import identities
from smallkube.operations.engine import REACHED, Operation, Runbook, Step, exchange, not_abortable
from smallkube.operations.machines import SCRIPTS
from smallkube.remote import scripts
from smallkube.remote.host import Command, Host
from smallkube.secrets import certificates, kinds, policy, transaction
from smallkube.secrets.age import read_master
from smallkube.secrets.policy import Secret
from smallkube.secrets.transaction import Change, Keys, read_keys

_CURL = ("curl", "--silent", "--show-error", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}")
SWITCH = partial(exchange, used=policy.NEW, kept=policy.OLD)
"""TRUSTED → SWITCHED."""
SWITCH_BACK = partial(exchange, used=policy.OLD, kept=policy.NEW)
"""SWITCHED → TRUSTED, in which the previous certificate is the one in use again."""
_HINT = "both are still trusted; run the same command again when it is fixed, or --abort"


class Stage(StrEnum):
    """How far the rotation of one certificate has come, by what is in keys/.

    NAME.new.crt is trusted as well as NAME.crt but not used yet; NAME.old.crt is still trusted and used no more. The
    private key of either is NAME.key.new.age or NAME.key.old.age, which no machine is given. It is there from the first
    step until the last one has been deployed: a staged key without a certificate says that only a deploy is missing.
    """

    ONE = "one certificate"
    TRUSTED = "the new one is trusted as well as the one in use"
    SWITCHED = "the new one is in use, the previous one still trusted"
    DEPLOY_PENDING = "one certificate, not deployed to every machine"


def choose(
    cluster: Cluster, nodes: Collection[str], *, everything: bool, now: datetime.datetime
) -> dict[Secret, list[str]]:
    """Key → why it and its certificate are replaced, nothing for one that has no fault, unless ``everything`` is.

    Of ``nodes`` (names) when there are any. Whether a certificate is over its key is known only where the master is.
    Raises UsageError when a key is missing, SmallkubeError when one can't be opened: a deploy would fail of it.
    """
    keys, master = read_keys(cluster.workspace), read_master(cluster.workspace)
    found = {}
    for row in policy.secrets_of(cluster.inventory):
        if row.certificate is None or (nodes and row.node not in nodes):
            continue
        transaction.require(keys, [row])
        plaintext = transaction.opened(keys, master, row) if master else None
        if plaintext is not None:
            kinds.validate(row.kind, plaintext, f"keys/{row.file}")
        pem = keys.certificates.get(row.certificate.file)
        why = certificates.complaints(pem, row.certificate, row.file, plaintext, now)
        found[row] = why or ["asked for"] * everything
    return found


def under_way(inventory: Inventory, keys: Keys) -> tuple[Secret, ...]:
    """The keys whose certificates a rotation concerns that has not ended; none when there is none.

    Raises SmallkubeError when files in keys/ are such as no rotation leaves them.
    """
    rows = [row for row in policy.secrets_of(inventory) if row.certificate]
    found = {row: stage for row in rows if (stage := stage_of(row, keys)) is not Stage.ONE}
    if len(set(found.values())) > 1:
        stages = ", ".join(f"{row.name}: {stage}" for row, stage in found.items())
        raise SmallkubeError(f"certificates stand at different steps: {stages}", hint="restore keys/ from git")
    return tuple(found)


@dataclass
class Rotation(Runbook):
    """Replaces ``rows`` and their certificates; ``seconds``: how long pods and kubelets may take to follow.

    ``others``: name, certificate and key of those that are trusted no more, as far as there is a master to open them.
    """

    rows: tuple[Secret, ...]
    seconds: int
    others: list[tuple[str, bytes, bytes]] = field(default_factory=list, init=False)

    def replacement(self) -> Operation:
        """The one step without a deploy."""
        step = Step(f"replace {', '.join(self.files)}, and their keys, in keys/ only", self._write(replaced))
        return Operation((step,), has_primary=False)

    def operation(self, keys: Keys, *, abort: bool, pause: bool) -> Operation:
        """The steps; with ``pause`` only until all trust the new ones. Raises UsageError when it can't be aborted."""
        at, pending = self._at, self._at(Stage.DEPLOY_PENDING)
        if abort and not (self.rows and at(Stage.TRUSTED, Stage.SWITCHED)(keys)):
            raise not_abortable(retired=bool(self.rows) and pending(keys))
        begun = at(Stage.TRUSTED, Stage.SWITCHED, Stage.DEPLOY_PENDING)
        new, old = at(Stage.SWITCHED, Stage.DEPLOY_PENDING), at(Stage.TRUSTED, Stage.DEPLOY_PENDING)
        trust = (
            Step(f"issue new keys and certificates for {', '.join(self.files)}", self._write(issued), begun),
            Step("deploy: the new certificates are trusted as well", self.deploy),
            Step("wait until every pod trusts the API server's new certificate", self._await_pods),
        )
        use = Step("use the new certificates, keep the previous trusted", self._write(SWITCH), new)
        back = Step("use the previous certificates again", self._write(SWITCH_BACK), old)
        end = (
            Step("deploy: they are used, the others still trusted", self.deploy),
            Step("verify that the API server and every kubelet use them", self._await_used),
            Step("stop trusting the others", self._untrust, pending),
            Step("deploy: only those in use are trusted", self.deploy),
            Step("verify again that they are used, and the others refused", self._await_refused),
            Step(REACHED, lambda: self.await_service(self.seconds)),
            Step("delete the others' keys", self._write(ended)),
        )
        steps = (back, *end) if abort else trust if pause else (*trust, use, *end)
        return Operation(steps, lambda now: any(stage_of(row, now) is not Stage.ONE for row in self.rows))

    @property
    def files(self) -> tuple[str, ...]:
        """The certificates that it concerns."""
        return policy.certificate_files(self.rows)

    @property
    def stage(self) -> Stage:
        """How far the rotation has come, by keys/."""
        return stage_of(self.rows[0], self.keys)

    def _at(self, *stages: Stage) -> Callable[[Keys], bool]:
        return lambda keys: all(stage_of(row, keys) in stages for row in self.rows)

    def _write(self, make: Callable[[Sequence[Secret]], Change]) -> Callable[[], None]:
        return partial(self.change, partial(make, self.rows))

    def _await_pods(self) -> None:
        """The kubelet brings ca.crt up to date when the controller manager has published it."""
        if policy.API_CERTIFICATE not in self.files:
            return
        new = policy.api_certificate(self.inventory).version(policy.NEW)
        command = SCRIPTS.sent("authorities", stdin=self.keys.certificates[new.file])

        def without(host: Host) -> Iterator[str]:
            if number := scripts.read(host, command, int):
                yield f"{number} pods on {host.node.name}"

        failure = "without the API server's new certificate in ca.crt"
        wait_until(lambda: self.complaints(without), self.seconds, failure, hint=_HINT)

    def _await_used(self) -> None:
        wait_until(self._mismatched, self.seconds, "not with the certificates in keys/", hint=_HINT)

    def _untrust(self) -> None:
        staged = [each for row in self.rows if row.user for each in row.staged]
        self.others = identities.opened(self, staged, self.keys) if self.master else []
        self.change(partial(untrusted, self.rows))

    def _await_refused(self) -> None:
        """Resumed, the keys of the others may be gone; then the API server's bundle alone tells."""
        self._await_used()
        if any(row.user for row in self.rows):
            with self.connect(self.inventory.primary) as primary:
                differences = partial(identities.mismatched, self.cluster, primary)
                wait_until(differences, SECONDS, "the API server", hint=_HINT)
            wait_until(lambda: identities.accepted(self, self.others), SECONDS, "not refused", hint=_HINT)

    def _unswitched(self) -> list[str]:
        """The services that identify themselves by another certificate than that in keys/."""
        pinned = self.keys.certificates
        rows = [(row, row.certificate.file) for row in self.rows if row.user and row.certificate]
        wanted = {(row.node, unit): sha256(pinned[file]) for row, file in rows for unit in row.units}
        if not wanted:
            return []
        found, silent = in_use(self.inventory, self.connect)
        return [
            *(
                f"{one.unit} on {one.node}"
                for one in found
                if wanted.get((one.node, one.unit), one.sha256) != one.sha256
            ),
            *(f"{node} ({why})" for node, why in silent.items()),
        ]

    def _mismatched(self) -> list[str]:
        """Where other certificates than those in keys/ are used, in words; none, when all fit.

        By the policy: every node asks each URL; the API server asks each path, of a kubelet, and both check the other.
        """
        shown, pinned = [each for each in policy.certificates(self.inventory) if each.shown_at], self.keys.certificates
        urls = {each.shown_at: pinned[each.file] for each in shown if not each.shown_at.startswith("/")}

        def fetch(host: Host) -> Iterator[str]:
            for url, pem in urls.items():
                reply = host.run(Command((*_CURL, "--cacert", "/dev/stdin", url), stdin=pem, timeout=30))
                if not reply.ok:
                    lines = (line for line in reply.stderr.splitlines() if line.startswith("curl: ("))
                    yield f"{host.node.name} to {url}: {next(lines, reply.last_line)}"

        if wrong := [*self.complaints(fetch), *self._unswitched()]:
            return wrong
        with self.connect(self.inventory.primary) as primary:
            for path in (each.shown_at for each in shown if each.shown_at not in urls):
                reply = primary.run(kubectl("get", "--raw", path))
                if not reply.ok:
                    wrong.append(f"the API server to {path}: {reply.last_line}")
        return wrong


def stage_of(row: Secret, keys: Keys) -> Stage:
    """The stage of ``row``, a key with a certificate."""
    staged = row.staged_in(keys.files)
    if staged is None:
        return Stage.ONE
    if keys.certificates.keys().isdisjoint(policy.certificate_files([staged])):
        return Stage.DEPLOY_PENDING
    return Stage.TRUSTED if staged == row.new else Stage.SWITCHED


def replaced(rows: Sequence[Secret]) -> Change:
    """New keys and certificates instead of the previous ones, at once."""
    keys = {row: certificates.new_key() for row in rows}
    return Change(keys, public={**certificates.issue_all(keys)})


def issued(rows: Sequence[Secret]) -> Change:
    """ONE → TRUSTED."""
    return replaced([row.new for row in rows])


def untrusted(rows: Sequence[Secret]) -> Change:
    """TRUSTED or SWITCHED → DEPLOY_PENDING."""
    return Change(public=dict.fromkeys(policy.certificate_files(each for row in rows for each in row.staged)))


def ended(rows: Sequence[Secret]) -> Change:
    """DEPLOY_PENDING → ONE."""
    return Change(removed=[each for row in rows for each in row.staged])
