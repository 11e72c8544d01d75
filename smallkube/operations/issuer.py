"""A new key for service accounts' tokens: it signs at once, tokens of the previous one are accepted while they exist.

The API server signs with issuer.key and accepts tokens of issuer.key.old and issuer.key.new, too (see
nix/modules/apiserver.nix). Aborted before the previous key is retired, it signs again, with the new one as
issuer.key.new.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.polling import wait_until
from smallkube.inventory.cluster import Cluster
from smallkube.operations import issuer_keys
from smallkube.operations.engine import Operation, Step, not_abortable
from smallkube.remote.host import Connect
from smallkube.secrets import change, kinds, policy
from smallkube.secrets.age import Master
from smallkube.secrets.change import Contents
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.store import Keys, changing_keys, read_keys

NAME = "issuer"


@dataclass(frozen=True)
class Rotation:
    """What it takes to rotate the key. ``overlap``: for how many seconds tokens in memory are still accepted when no
    file holds a previous one any more; ``seconds``: how long tokens may take to be replaced.
    """

    cluster: Cluster
    master: Master | None
    connect: Connect
    deploy: Callable[[], object]
    overlap: int
    seconds: int

    def operation(self, keys: Keys, *, abort: bool) -> Operation:
        """The steps; ``keys`` say whether it goes forward or back. Raises UsageError when there is nothing to abort."""
        row = self.row
        if row.file not in keys.files:
            hint = "run `inv keys.generate`, or restore it from git"
            raise UsageError("missing", where=f"keys/{row.file}", hint=hint)
        if abort and not row.other(keys.files):
            raise not_abortable(retired=row.retired.file in keys.files)

        def there(*rows: Secret) -> Callable[[Keys], bool]:
            return lambda now: any(each.file in now.files for each in rows)

        if abort or there(row.new)(keys):
            first = Step("let the previous key sign again", self._back, there(row.new, row.retired))
        else:
            first = Step("generate a key, keep the previous", self._begin, there(row.old, row.retired))
        return Operation(
            NAME,
            (
                first,
                Step("deploy: the current key signs, tokens of both are accepted", self.deploy),
                Step("verify that tokens of both are accepted", self._verify_both),
                Step("replace the pods' tokens of the other key (restarts kubelets)", self._renew),
                Step("verify that no Secret holds a token of the other key", self._verify_secrets),
                Step(f"wait {self.overlap} s for programs to read their new token", lambda: time.sleep(self.overlap)),
                Step("retire the other key", self._retire, there(row.retired)),
                Step("deploy: only tokens of the current key are accepted", self.deploy),
                Step("verify that tokens of the retired key are refused", lambda: self._expect({self.key})),
                Step("delete the retired key", lambda: self._change(Contents({}, {}, (row.retired,)))),
            ),
            there(*row.versions),
        )

    @property
    def row(self) -> Secret:
        """The key that signs."""
        return next(row for row in policy.secrets_of(self.cluster.inventory) if row.kind is Kind.SIGNING_KEY)

    @property
    def key(self) -> str:
        """The id of the key that signs, by keys/."""
        return self._key_id(self.row)

    def _change(self, contents: Contents) -> None:
        with changing_keys(self.cluster.workspace):
            change.apply(self.cluster, contents)

    def _begin(self) -> None:
        self._change(Contents({self.row: kinds.make(self.row.kind, ())}, {self.row.old: self.row}))

    def _back(self) -> None:
        self._change(Contents({}, {self.row: self.row.old, self.row.new: self.row}, (self.row.old,)))

    def _retire(self) -> None:
        other = self._other
        self._change(Contents({self.row.retired: self._open(other)}, {}, (other,)))

    @property
    def _other(self) -> Secret:
        other = self.row.other(read_keys(self.cluster.workspace).files)
        assert other
        return other

    def _open(self, row: Secret) -> bytes:
        assert self.master
        return change.opened(read_keys(self.cluster.workspace), self.master, row)

    def _key_id(self, row: Secret) -> str:
        return issuer_keys.key_id(self._open(row), f"keys/{row.file}")

    def _verify_both(self) -> None:
        self._expect({self.key, self._key_id(self._other)})

    def _expect(self, wanted: set[str]) -> None:
        found = issuer_keys.accepted(self.cluster.inventory, self.connect)
        if found != wanted:
            differs = f"it accepts {', '.join(sorted(found))}, not {', '.join(sorted(wanted))}"
            hint = "run the same command again"
            raise SmallkubeError(f"the API server has other keys than keys/: {differs}", hint=hint)

    def _renew(self) -> None:
        """A kubelet asks for its pods' tokens anew when it starts; else it would when they are nearly an hour old."""
        other = self._key_id(self._other)
        if not issuer_keys.pods_with(self.cluster.inventory, self.connect, other):
            return
        if unreachable := issuer_keys.restart_kubelets(self.cluster.inventory, self.connect):
            raise _waiting(", ".join(f"{node} ({why})" for node, why in unreachable.items()))
        wait_until(lambda: issuer_keys.pods_with(self.cluster.inventory, self.connect, other), self.seconds, _waiting)

    def _verify_secrets(self) -> None:
        if found := issuer_keys.secrets_with(self.cluster.inventory, self.connect, self._key_id(self._other)):
            patch = """kubectl -n NAMESPACE patch secret NAME --type=json -p '[{"op":"remove","path":"/data/token"}]'"""
            hint = f"each gets a new one by `{patch}`; give it to whoever has a copy, then run the same command again"
            raise SmallkubeError(f"Secrets hold tokens of the other key: {', '.join(found)}", hint=hint)


def _waiting(missing: str) -> SmallkubeError:
    hint = "tokens of both keys are still accepted; run the same command again when it is fixed, or --abort"
    return SmallkubeError(f"not all have a new token: {missing}", hint=hint)
