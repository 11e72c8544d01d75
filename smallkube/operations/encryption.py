"""A new key for the Secrets in etcd, in the phases in which everything stays readable at every moment.

The phase follows from the keys of the EncryptionConfiguration (see ``encryption_phases``). The retired key is kept as
EncryptionConfiguration.yaml.retired until the machines run without it, so that a run that was killed after the removal
still deploys it. An abort before that keeps the previous key.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.etcd.status import ENDPOINT
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.operations.encryption_phases import Configuration, Phase, parse
from smallkube.operations.engine import Operation, Step, in_keys, not_abortable
from smallkube.operations.machines import answer, script
from smallkube.remote.host import Connect
from smallkube.secrets import policy, transaction
from smallkube.secrets.age import Master
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.transaction import Change, Keys, changing_keys, read_keys

NAME = "encryption"
_REWRITE_SECONDS = 1800
KUBECONFIG = "/run/kubeconfig-root"


def paths(resources: Sequence[str]) -> list[str]:
    """Where in etcd, below /registry/, objects of ``resources`` are: those of custom groups are under their group."""
    found = []
    for resource in resources:
        name, _, group = resource.partition(".")
        found += [name, f"{group}/{name}"] if group else [name]
    return found


@dataclass
class Rotation:
    """What it takes to rotate the key. ``back_up`` is a step before all others, None for none.

    ``rewritten`` and ``stored`` are known once it has ended: how many objects were written again, and how many are
    encrypted with the key of which name.
    """

    cluster: Cluster
    master: Master
    connect: Connect
    deploy: Callable[[Sequence[Node]], object]
    back_up: Callable[[], object] | None = None
    rewritten: int = 0
    stored: dict[str, int] = field(default_factory=dict)

    def operation(self, keys: Keys, *, abort: bool) -> Operation:
        """The steps. Raises UsageError when there is nothing to abort, or a resource's objects can't be listed."""
        found, retired = self._read(keys), in_keys([self._secret.retired])
        if abort and (retired(keys) or found.phase is Phase.ONE):
            raise not_abortable(retired=retired(keys))
        if patterns := [resource for resource in found.resources if "*" in resource]:
            hint = "name the resources one by one in cluster.secrets.encrypted_resources"
            raise UsageError(f"what {', '.join(patterns)} stands for is not known here", hint=hint)
        stays, goes = ("previous", "new") if abort else ("new", "previous")
        final = Phase.ADDED if abort else Phase.PROMOTED
        first = [Step("back up etcd and verify the backup", self.back_up)] if self.back_up else []
        if not abort:
            first.append(Step("add a new key that only decrypts", self._add, self._two_keys))
            first.append(Step("deploy the primary: both keys decrypt", self._deploy_primary))
        steps = (
            *first,
            Step(f"let the {stays} key encrypt", lambda: self._swap(final), lambda now: self._read(now).phase is final),
            Step(f"deploy the primary: the {stays} key encrypts", self._deploy_primary),
            Step(f"rewrite all {', '.join(found.resources)}", self._rewrite),
            Step(f"verify in etcd that nothing is encrypted with the {goes} key, or in clear", self._verify),
            Step(f"retire the {goes} key", self._retire, retired),
            Step("deploy without the retired key", lambda: self.deploy(self.cluster.inventory.nodes)),
            Step("delete the retired key", self._delete),
        )
        return Operation(NAME, steps, lambda now: retired(now) or self._two_keys(now))

    @property
    def key(self) -> str:
        """The name of the key that encrypts, by keys/."""
        return self._current.keys[0][0]

    @property
    def _secret(self) -> Secret:
        return next(row for row in policy.secrets_of(self.cluster.inventory) if row.kind is Kind.ENCRYPTION)

    def _read(self, keys: Keys) -> Configuration:
        """The configuration in keys/, with all resources that the inventory wants encrypted."""
        plaintext = transaction.opened(keys, self.master, self._secret)
        return parse(plaintext).covering(self.cluster.inventory.cluster.secrets.encrypted_resources)

    def _two_keys(self, keys: Keys) -> bool:
        return self._read(keys).phase is not Phase.ONE

    @property
    def _current(self) -> Configuration:
        return self._read(read_keys(self.cluster.workspace))

    def _write(self, change_of: Callable[[Configuration], Configuration], *, retire: bool = False) -> None:
        with changing_keys(self.cluster.workspace):
            plaintext = transaction.opened(read_keys(self.cluster.workspace), self.master, self._secret)
            after = change_of(self._current).text()
            if after != plaintext:
                kept = {self._secret.retired: plaintext} if retire else {}
                transaction.apply(self.cluster, Change({self._secret: after, **kept}))

    def _add(self) -> None:
        self._write(lambda found: found.with_new(secrets.token_bytes(32)))

    def _swap(self, final: Phase) -> None:
        self._write(lambda found: found if found.phase is final else found.swapped())

    def _retire(self) -> None:
        self._write(Configuration.first_only, retire=True)

    def _delete(self) -> None:
        with changing_keys(self.cluster.workspace):
            transaction.apply(self.cluster, Change(removed=(self._secret.retired,)))

    def _deploy_primary(self) -> None:
        """The API server reads it when it starts, which a changed file makes it do."""
        self._write(lambda found: found)  # the inventory may want more resources than when this rotation began
        self.deploy([self.cluster.inventory.primary])

    def _rewrite(self) -> None:
        command = script("rewrite", KUBECONFIG, *self._current.resources, timeout=_REWRITE_SECONDS)
        with self.connect(self.cluster.inventory.primary) as primary:
            self.rewritten = answer(primary, command)

    def _verify(self) -> None:
        command = script("stored", ENDPOINT, *paths(self._current.resources), timeout=_REWRITE_SECONDS)
        with self.connect(self.cluster.inventory.primary) as primary:
            self.stored = answer(primary, command)
        if bad := {name: count for name, count in self.stored.items() if name != self.key}:
            others = ", ".join(f"{count} with {name}" for name, count in bad.items())
            hint = "run the same command again; both keys stay until then"
            raise SmallkubeError(f"not everything is encrypted with {self.key}: {others}", hint=hint)
