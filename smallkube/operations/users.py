"""Add people to the cluster and remove them, in keys/ and on the primary at once, without a restart of the API server.

keys/ comes first: what an interrupted command has not sent to the primary the same command sends, and so does a deploy.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from smallkube.core.errors import UsageError
from smallkube.core.polling import wait_until
from smallkube.deploy import facts, preflight
from smallkube.inventory.cluster import Cluster
from smallkube.kube import bindings
from smallkube.kube.identities import SECONDS
from smallkube.operations import identities
from smallkube.operations.engine import Operation, Runbook, Step
from smallkube.remote.host import Host
from smallkube.secrets import age, certificates, client_certificates, people, transaction
from smallkube.secrets.client_certificates import PublicKey
from smallkube.secrets.people import NONE, Person
from smallkube.secrets.transaction import Change, read_keys

DAYS = 90
"""How long a certificate is valid, if nothing else is asked for."""
MAX_DAYS = 3650
EVERYWHERE = "*"
"""What stands for no namespace, where one could be named."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for; None stands for what is so already, or the default of a new user.

    ``groups`` are all of them, or NONE alone; ``role`` may be NONE, and ``namespace`` EVERYWHERE.

    ``request``: a certificate request (PEM) by the person; ``recipient``: whom a key made here is encrypted to
    ("age1…", "ssh-ed25519 …"). ``new_key``: one made here, also for a user who has one.
    """

    name: str
    groups: tuple[str, ...] | None = None
    role: str | None = None
    namespace: str | None = None
    expires: timedelta | None = None
    request: bytes | None = None
    recipient: str | None = None
    new_key: bool = False

    @property
    def renews(self) -> bool:
        """Whether a new certificate is asked for."""
        return self.changes_key or self.groups is not None or self.expires is not None

    @property
    def changes_key(self) -> bool:
        """Whether it is over another key than that of a user who exists."""
        return self.new_key or self.request is not None or self.recipient is not None


@dataclass(frozen=True)
class Added:
    """``issued``: there is a new certificate, over ``key``."""

    person: Person
    issued: bool
    key: PublicKey


def add(cluster: Cluster, wanted: Wanted, now: datetime) -> Added:
    """Make the user, or change what is asked for of one, in keys/; call it under the lock on keys/.

    Raises UsageError when it can't be as ``wanted``; nothing has changed then.
    """
    workspace, known = cluster.workspace, people.read(cluster.workspace)
    before = known.get(wanted.name)
    if before and before.removed:
        again = f"inv users.remove {wanted.name}"
        raise UsageError(f"the removal of {wanted.name} was interrupted", hint=f"run `{again}`, which completes it")
    person = _person(wanted, before, now)
    people.require_valid(person)
    public: dict[str, bytes | None] = {}
    private: bytes | None = None
    issued = before is None or wanted.renews
    if before and not wanted.changes_key:
        where = f"keys/{before.certificate}"
        pem = workspace.read(workspace.keys_dir / before.certificate)
        if faults := client_certificates.faults(before, pem):
            raise UsageError(", ".join(faults), where=where, hint="restore it from git, or remove the user")
        key = client_certificates.key_of(pem or b"", where)
    elif wanted.request is not None:
        key = client_certificates.request_key(wanted.request, "--csr")
        public[person.own_key] = None
    else:
        private = certificates.new_key()
        key = certificates.parse_key(private, person.name).public_key()
        public[person.own_key] = age.encrypt(private, [wanted.recipient]) if wanted.recipient else None
    if issued:
        _refuse_shared_key(cluster, known, person, key)
        public[person.certificate] = client_certificates.issue(person, key, now)
    public[workspace.users_file.name] = people.render({**known, person.name: person})
    keys, ours = read_keys(workspace), person.key
    replaced = person.own_key in public and ours.file in keys.files
    new = {ours: private} if private and not wanted.recipient else {}
    removed = [ours] if replaced and not new else []
    transaction.apply(cluster, Change(new, removed=removed, public=public, subjects=[person.name]), keys=keys)
    return Added(person, issued, key)


def _person(wanted: Wanted, before: Person | None, now: datetime) -> Person:
    if wanted.expires and not timedelta() < wanted.expires <= timedelta(days=MAX_DAYS):
        raise UsageError(f"--expires: {MAX_DAYS}d at most")
    start = before or Person(wanted.name, (), "", "", people.stamp(now), "")
    role = start.role if wanted.role is None else wanted.role if wanted.role != NONE else ""
    namespace = start.namespace if role and wanted.namespace is None else wanted.namespace or ""
    namespace = "" if namespace == EVERYWHERE else namespace
    groups = start.groups if wanted.groups is None else wanted.groups if wanted.groups != (NONE,) else ()
    expires = start.expires
    if wanted.expires or not before:
        expires = people.stamp(now + (wanted.expires or timedelta(days=DAYS)))
    elif wanted.renews and before.ends <= now:
        raise UsageError(f"the certificate of {wanted.name} has expired", hint=f"--expires, such as {DAYS}d")
    return replace(start, groups=groups, role=role, namespace=namespace, expires=expires)


def _refuse_shared_key(cluster: Cluster, known: dict[str, Person], person: Person, key: PublicKey) -> None:
    """Raise UsageError when another user has this key: the audit log could not distinguish them."""
    workspace = cluster.workspace
    others = [(each.name, workspace.read(workspace.keys_dir / each.certificate)) for each in known.values()]
    pems = [(name, pem) for name, pem in others if pem and name != person.name]
    if owner := client_certificates.same_key(pems, key):
        raise UsageError(f"this is the key of {owner}", hint=f"{person.name} needs a key of their own")


def send(cluster: Cluster, primary: Host, person: Person) -> None:
    """Make the primary accept the person's certificate, and no previous one, and give them their role there."""
    _send(cluster, primary)
    bindings.apply(primary, person)


def _send(cluster: Cluster, primary: Host) -> None:
    if not identities.send(cluster, primary):
        hint = f"inv nix.render and inv deploy --node {primary.node.name}"
        raise primary.error("an earlier version was deployed, which knows no users", hint)


def refuse_older(cluster: Cluster, primary: Host) -> None:
    """Raise UsageError when the primary has newer keys than keys/ here, such as with a user added by another clone.

    All certificates are replaced at once, so what keys/ lacks would be accepted no more.
    """
    preflight.refuse_older_keys({primary.node.name: facts.deployed(primary)}, transaction.states(cluster.workspace))


@dataclass
class Removal(Runbook):
    """Removes ``person``. ``refused``: seconds until the certificate was; None without its key."""

    person: Person
    private: bytes | None = None
    refused: float | None = None
    _began: float = 0.0

    def operation(self) -> Operation:
        """The steps; each may be repeated, and all of them are."""
        name = self.person.name
        check = Step("verify that it is refused", self._verify)
        steps = (
            Step(f"mark {name} as removed in keys/users.json", self._mark),
            Step(f"take the certificate of {name} out of what the API server accepts", self._send),
            *((check,) if self.private else ()),
            Step(f"delete the bindings of {name}", self._on_primary(lambda host: bindings.remove(host, name))),
            Step(f"delete the files of {name} in keys/", self._delete),
        )
        return Operation(steps, lambda _: self.person.removed)

    def _on_primary(self, act: Callable[[Host], object]) -> Callable[[], None]:
        def run() -> None:
            with self.connect(self.inventory.primary) as primary:
                act(primary)

        return run

    def _known(self) -> dict[str, Person]:
        return people.read(self.cluster.workspace)

    def _mark(self) -> None:
        self._on_primary(lambda host: refuse_older(self.cluster, host))()

        def marked() -> Change:
            known = self._known()
            person = replace(known[self.person.name], removed=True)
            return self._change({**known, person.name: person})

        self.change(marked)

    def _change(self, known: dict[str, Person], **files: None) -> Change:
        file = self.cluster.workspace.users_file.name
        return Change(public={**files, file: people.render(known)}, subjects=[self.person.name])

    def _send(self) -> None:
        self._on_primary(lambda host: _send(self.cluster, host))()
        self._began = time.monotonic()

    def _verify(self) -> None:
        pem = self.cluster.workspace.read(self.cluster.workspace.keys_dir / self.person.certificate) or b""
        pairs = [(self.person.name, pem, self.private or b"")]
        problem, hint = "the certificate is not refused", "run the same command again"
        wait_until(lambda: identities.accepted(self, pairs), SECONDS, problem, hint=hint, interval=0.2)
        self.refused = round(time.monotonic() - self._began, 1)

    def _delete(self) -> None:
        def deleted() -> Change:
            person, keys = self.person, self.keys
            rest = {name: each for name, each in self._known().items() if name != person.name}
            removed = [person.key] if person.key.file in keys.files else []
            files = dict.fromkeys((person.certificate, person.own_key))
            return replace(self._change(rest, **files), removed=removed)

        self.change(deleted)
