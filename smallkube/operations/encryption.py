"""A new key for the Secrets in etcd, in the phases in which everything stays readable at every moment.

Where a rotation stands follows from the EncryptionConfiguration: its first key encrypts, all of them decrypt
(kubernetes.io/docs/tasks/administer-cluster/encrypt-data). Keys are called key1, key2, …: the one with the higher
number is the newer; one of another name is older than those. The retired key is kept as
EncryptionConfiguration.yaml.retired until the machines run without it, so that a run that was killed after the removal
still deploys it. An abort before that keeps the previous key. Earlier backups need the retired key: where keys/ is in
git, it is deleted only once git has it.
"""

import base64
import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial

from smallkube.core import git
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.etcd.status import ENDPOINT
from smallkube.operations.engine import Operation, Runbook, Step, in_keys, not_abortable
from smallkube.operations.machines import SCRIPTS
from smallkube.secrets import age, kinds, policy
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.transaction import Change, Keys

KUBECONFIG = "/run/kubeconfig-root"
_REWRITE_SECONDS = 1800
_WHERE = "keys/EncryptionConfiguration.yaml.age"


class Phase(StrEnum):
    """Which keys there are, the encrypting one first."""

    ONE = "one key"
    ADDED = "the previous key encrypts, the new one decrypts"
    PROMOTED = "the new key encrypts, the previous one decrypts"


@dataclass(frozen=True)
class Configuration:
    """``keys`` in their order, as name and base64 of 32 bytes; ``resources`` are what is encrypted."""

    keys: tuple[tuple[str, str], ...] = field(repr=False)
    resources: tuple[str, ...]

    @property
    def phase(self) -> Phase:
        """Raises UsageError when the keys are not such as a rotation leaves them."""
        match [_number(name) for name, _ in self.keys]:
            case [_]:
                return Phase.ONE
            case [first, second] if first != second:
                return Phase.ADDED if first < second else Phase.PROMOTED
        names = ", ".join(name for name, _ in self.keys)
        rule = "leave one key, or two of which the newer has a higher number"
        hint = f"inv keys.edit EncryptionConfiguration.yaml: {rule}"
        raise UsageError(f"can't tell where a rotation stands from the keys {names}", where=_WHERE, hint=hint)

    def with_new(self, secret: bytes) -> "Configuration":
        """A key of these 32 bytes is added after the current one."""
        name, _ = self.keys[0]
        following = f"key{_number(name) + 1}"
        return replace(self, keys=(*self.keys, (following, base64.b64encode(secret).decode())))

    def swapped(self) -> "Configuration":
        """The other key encrypts."""
        return replace(self, keys=(self.keys[1], self.keys[0]))

    def first_only(self) -> "Configuration":
        """The key that encrypts is the only one."""
        return replace(self, keys=self.keys[:1])

    def covering(self, resources: Sequence[str]) -> "Configuration":
        """These resources, too: none is taken away, for what is encrypted must stay readable."""
        return replace(self, resources=tuple(dict.fromkeys((*self.resources, *resources))))

    def text(self) -> bytes:
        """The file."""
        return kinds.encryption_configuration(self.keys, self.resources)


def parse(plaintext: bytes) -> Configuration:
    """From a (valid) file; raises UsageError for one that is not as smallkube writes it."""
    import yaml

    parts = yaml.safe_load(plaintext)["resources"]
    providers = [kind for part in parts for provider in part["providers"] for kind in provider]
    if len(parts) != 1 or providers.count("secretbox") != 1 or not {*providers} <= {"secretbox", "identity"}:
        hint = "rotate its keys manually"
        raise UsageError("has other providers or parts than smallkube writes", where=_WHERE, hint=hint)
    return Configuration(tuple(kinds.encryption_keys(plaintext)), tuple(kinds.encrypted_resources(plaintext)))


def _number(name: str) -> int:
    """0 for a name that smallkube has not given."""
    found = re.fullmatch(r"key([1-9]\d{0,99})", name, re.ASCII)
    return int(found[1]) if found else 0


def paths(resources: Sequence[str]) -> list[str]:
    """Where in etcd, below /registry/, objects of ``resources`` are: those of custom groups are under their group."""
    found = []
    for resource in resources:
        name, _, group = resource.partition(".")
        found += [name, f"{group}/{name}"] if group else [name]
    return found


@dataclass
class Rotation(Runbook):
    """``backs_up``: whether a backup is the first step.

    ``rewritten`` and ``stored`` are known once it has ended: how many objects were written again, and how many are
    encrypted with the key of which name.
    """

    backs_up: bool
    rewritten: int = 0
    stored: dict[str, int] = field(default_factory=dict)

    def operation(self, keys: Keys, *, abort: bool) -> Operation:
        """The steps. Raises UsageError when there is nothing to abort, a resource's objects can't be listed, or git
        does not have the key yet that is to be replaced.
        """
        found, retired = self._read(keys), in_keys([self._secret.retired])
        if abort and (retired(keys) or found.phase is Phase.ONE):
            raise not_abortable(retired=retired(keys))
        if patterns := [resource for resource in found.resources if "*" in resource]:
            hint = "name the resources one by one in cluster.secrets.encrypted_resources"
            raise UsageError(f"what {', '.join(patterns)} stands for is not known here", hint=hint)
        if found.phase is Phase.ONE and not retired(keys) and (lost := self._uncommitted(found.keys)):
            problem = f"the last commit lacks {lost}, which earlier backups need"
            raise UsageError(problem, where=_WHERE, hint="commit keys/")
        stays, goes = ("previous", "new") if abort else ("new", "previous")
        final = Phase.ADDED if abort else Phase.PROMOTED
        first = [Step("back up etcd and verify the backup", self.back_up)] if self.backs_up else []
        if not abort:
            add = partial(self._write, lambda found: found.with_new(secrets.token_bytes(32)))
            first.append(Step("add a new key that only decrypts", add, self._two_keys))
            first.append(Step("deploy the primary: both keys decrypt", self._deploy_primary))
        steps = (
            *first,
            Step(f"let the {stays} key encrypt", partial(self._swap, final), partial(self._at, final)),
            Step(f"deploy the primary: the {stays} key encrypts", self._deploy_primary),
            Step(f"rewrite all {', '.join(found.resources)}", self._rewrite),
            Step(f"verify in etcd that nothing is encrypted with the {goes} key, or in clear", self._verify),
            Step(f"retire the {goes} key", partial(self._write, Configuration.first_only, retire=True), retired),
            Step("deploy without the retired key", self.deploy),
            Step("delete the retired key", self._delete_retired),
        )
        return Operation(steps, lambda now: retired(now) or self._two_keys(now))

    @property
    def key(self) -> str:
        """The name of the key that encrypts, by keys/."""
        return self._read(self.keys).keys[0][0]

    @property
    def _secret(self) -> Secret:
        return next(row for row in policy.secrets_of(self.inventory) if row.kind is Kind.ENCRYPTION)

    def _read(self, keys: Keys) -> Configuration:
        """The configuration in keys/, with all resources that the inventory wants encrypted."""
        found = parse(self.open(self._secret, keys))
        return found.covering(self.inventory.cluster.secrets.encrypted_resources)

    def _at(self, phase: Phase, keys: Keys) -> bool:
        return self._read(keys).phase is phase

    def _two_keys(self, keys: Keys) -> bool:
        return not self._at(Phase.ONE, keys)

    def _write(self, change_of: Callable[[Configuration], Configuration], *, retire: bool = False) -> None:
        def make() -> Change:
            before, after = self.open(self._secret), change_of(self._read(self.keys)).text()
            kept = {self._secret.retired: before} if retire else {}
            return Change({} if after == before else {self._secret: after, **kept})

        self.change(make)

    @property
    def in_git(self) -> bool:
        """Whether git has, or can have, the key that is deleted in the end."""
        return git.committed(self.cluster.workspace.keys_dir, self._secret.file) is not None

    def _uncommitted(self, wanted: Sequence[tuple[str, str]]) -> str:
        """The names of the keys among ``wanted`` that git should have, but has not."""
        assert self.master
        files = git.committed(self.cluster.workspace.keys_dir, self._secret.file)
        known: set[tuple[str, str]] = set()
        for row in (self._secret, self._secret.retired):
            if data := (files or {}).get(row.file):
                with suppress(SmallkubeError):
                    known.update(kinds.encryption_keys(age.decrypt(data, self.master, row.file)))
        return "" if files is None else ", ".join(name for name, secret in wanted if (name, secret) not in known)

    def _delete_retired(self) -> None:
        keys, row = self.keys, self._secret.retired
        if row.file in keys.files:
            current = self._read(keys).keys
            gone = [key for key in kinds.encryption_keys(self.open(row, keys)) if key not in current]
            if lost := self._uncommitted(gone):
                hint = "commit keys/, then run the same command again, which deletes it"
                problem = f"kept: the last commit lacks {lost}, which earlier backups need"
                raise SmallkubeError(problem, where=f"keys/{row.file}", hint=hint)
        self.change(lambda: Change(removed=[row]))

    def _swap(self, final: Phase) -> None:
        self._write(lambda found: found if found.phase is final else found.swapped())

    def _deploy_primary(self) -> None:
        """The API server reads it when it starts, which a changed file makes it do."""
        self._write(lambda found: found)  # the inventory may want more resources than when this rotation began
        self.deploy([self.inventory.primary])

    def _rewrite(self) -> None:
        resources = self._read(self.keys).resources
        command = SCRIPTS.sent("rewrite", KUBECONFIG, *resources, timeout=_REWRITE_SECONDS)
        self.rewritten = self.ask_primary(command, int)

    def _verify(self) -> None:
        found = self._read(self.keys)
        command = SCRIPTS.sent("stored", ENDPOINT, *paths(found.resources), timeout=_REWRITE_SECONDS)
        self.stored = self.ask_primary(command, dict[str, int])
        if bad := {name: count for name, count in self.stored.items() if name != self.key}:
            others = ", ".join(f"{count} with {name}" for name, count in bad.items())
            hint = "run the same command again; both keys stay until then"
            raise SmallkubeError(f"not everything is encrypted with {self.key}: {others}", hint=hint)
