"""A new key for service accounts' tokens: it signs at once, tokens of the previous one are accepted while they exist.

The API server signs with issuer.key and accepts tokens of issuer.key.old and issuer.key.new, too (see
nix/modules/apiserver.nix).
"""

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from smallkube.core.errors import MALFORMED, SmallkubeError
from smallkube.core.polling import wait_until
from smallkube.kube.members import kubectl
from smallkube.operations.engine import Operation, Overlap, Step
from smallkube.operations.machines import SCRIPTS
from smallkube.remote import scripts
from smallkube.remote.host import Command, Host
from smallkube.secrets import certificates, policy, transaction
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.transaction import Keys

_SCRIPT_SECONDS = 120
_WAITING = "not all have a new token"
_HINT = "tokens of both keys are still accepted; run the same command again when it is fixed, or --abort"


@dataclass(frozen=True)
class _Key:
    kid: str


@dataclass(frozen=True)
class _PublishedKeys:
    """A JSON Web Key Set (RFC 7517), of which the ids matter."""

    keys: tuple[_Key, ...]


@dataclass
class Rotation(Overlap):
    """``wait``: for how many seconds tokens in memory are still accepted when no file holds a previous one any more.

    ``seconds``: how long tokens may take to be replaced.
    """

    wait: int
    seconds: int

    @property
    def rows(self) -> tuple[Secret, ...]:
        return tuple(row for row in policy.secrets_of(self.inventory) if row.kind is Kind.SIGNING_KEY)

    def operation(self, keys: Keys, *, abort: bool) -> Operation:
        """The steps. Raises UsageError when there is nothing to abort, or no key."""
        transaction.require(keys, self.rows)
        titles = "generate a key, keep the previous", "let the previous key sign again"
        both = (
            Step("deploy: the current key signs, tokens of both are accepted", self.deploy),
            Step("verify that tokens of both are accepted", lambda: self._expect({self.key, self._other})),
            Step("replace the pods' tokens of the other key (restarts kubelets)", self._renew),
            Step("verify that no Secret holds a token of the other key", self._verify_secrets),
            Step(f"wait {self.wait} s for programs to read their new token", lambda: time.sleep(self.wait)),
        )
        one = (
            Step("deploy: only tokens of the current key are accepted", self.deploy),
            Step("verify that tokens of the retired key are refused", lambda: self._expect({self.key})),
        )
        return self._operation(keys, abort, titles, both, one)

    @property
    def key(self) -> str:
        """The id of the key that signs, by keys/."""
        return self._id_of(*self.rows)

    @property
    def _other(self) -> str:
        return self._id_of(*self.others(self.keys).values())

    def _id_of(self, row: Secret) -> str:
        return key_id(self.open(row), f"keys/{row.file}")

    def _expect(self, wanted: set[str]) -> None:
        """The API server publishes the keys whose tokens it accepts (OpenID's JWKS)."""
        published = self.ask_primary(kubectl("get", "--raw", "/openid/v1/jwks"), _PublishedKeys)
        found = {key.kid for key in published.keys}
        if found != wanted:
            differs = f"it accepts {', '.join(sorted(found))}, not {', '.join(sorted(wanted))}"
            hint = "run the same command again"
            raise SmallkubeError(f"the API server has other keys than keys/: {differs}", hint=hint)

    def _renew(self) -> None:
        """A kubelet requests new tokens for its pods when it starts, otherwise when they are nearly an hour old."""
        other = self._other

        def pods(host: Host) -> Iterator[str]:
            heads = scripts.read(host, SCRIPTS.sent("signed", "pods", timeout=_SCRIPT_SECONDS), list[str])
            if number := sum(key_id_of_token(head) == other for head in heads):
                yield f"{number} tokens of pods on {host.node.name}"

        if not self.complaints(pods):
            return
        if unreachable := self.complaints(_restart_kubelet):
            raise SmallkubeError(f"{_WAITING}: {', '.join(unreachable)}", hint=_HINT)
        wait_until(lambda: self.complaints(pods), self.seconds, _WAITING, hint=_HINT)

    def _verify_secrets(self) -> None:
        """Tokens in Secrets are never renewed by themselves."""
        command, other = SCRIPTS.sent("signed", "secrets", timeout=_SCRIPT_SECONDS), self._other
        heads = self.ask_primary(command, dict[str, str])
        if found := [name for name, head in heads.items() if key_id_of_token(head) == other]:
            patch = """kubectl -n NAMESPACE patch secret NAME --type=json -p '[{"op":"remove","path":"/data/token"}]'"""
            hint = f"each gets a new one by `{patch}`; replace all copies of it, then run the same command again"
            raise SmallkubeError(f"Secrets hold tokens of the other key: {', '.join(found)}", hint=hint)


def key_id(private: bytes, where: str) -> str:
    """The id that tokens signed with ``private`` (PEM) carry: SHA-256 of the public key (DER), base64url, unpadded.

    Source: k8s.io/kubernetes pkg/serviceaccount/jwt.go, ``keyIDFromPublicKey``.
    """
    public = certificates.parse_key(private, where).public_key()
    digest = hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def key_id_of_token(head: str) -> str:
    """The id that a token carries, by its first part (base64url of JSON, RFC 7515); "" when it is no token's."""
    try:
        return str(json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"])
    except MALFORMED:
        return ""


def _restart_kubelet(host: Host) -> tuple[str, ...]:
    """Its pods are left alone."""
    argv = ("systemctl", "restart", "kubelet.service")
    host.run_checked(Command(argv, timeout=180, title="restart the kubelet"))
    return ()
