"""The API server's audit log: who asked for what, when, from where, and with which result."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from smallkube.remote.host import Host
from smallkube.remote.scripts import Scripts, read

_SCRIPTS = Scripts(Path(__file__).with_name("scripts"))
_LOG = "/var/log/kube-apiserver/audit.log"
"""As in nix/modules/audit.nix; rotated ones are beside it, compressed."""
_SECONDS = 600
"""That is what a full log may take, without an answer until its end."""


@dataclass(frozen=True)
class Request:
    """One request, as far as it is logged (Event of audit.k8s.io/v1); what it does not have is "" or 0.

    ``time`` is when it came, RFC 3339 in UTC. ``resource`` is plural, with its subresource ("pods/exec"); ``path`` is
    there only without one. ``address`` is where the connection came from, ``agent`` what the client calls itself.
    ``credential`` says which one it showed, such as X509SHA256=HEX; static tokens have none
    (k8s.io/apiserver/pkg/authentication/user, CredentialIDKey).
    """

    time: str
    user: str
    impersonated: str
    verb: str
    resource: str
    namespace: str
    name: str
    path: str
    code: int
    address: str
    agent: str
    credential: str = ""


@dataclass(frozen=True)
class _Answer:
    found: bool
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class _Seen:
    found: bool
    times: dict[str, str]


Found = TypeVar("Found", _Answer, _Seen)


@dataclass(frozen=True)
class Wanted:
    """Which requests; no words stand for any. ``seconds``: how far back, or 0."""

    seconds: int
    limit: int
    users: Sequence[str] = ()
    verbs: Sequence[str] = ()
    namespaces: Sequence[str] = ()
    resources: Sequence[str] = ()


def requests(primary: Host, wanted: Wanted) -> tuple[Request, ...]:
    """The newest ``wanted`` requests, oldest first. Raises SmallkubeError; UsageError when there is no log."""
    words = (wanted.users, wanted.verbs, wanted.namespaces, wanted.resources)
    arguments = (_LOG, str(wanted.seconds), str(wanted.limit), *map(",".join, words))
    answer = read(primary, _SCRIPTS.sent("audit", *arguments, title="audit log", timeout=_SECONDS), _Answer)
    return _required(primary, answer).requests


def last_seen(primary: Host, users: Sequence[str]) -> dict[str, str]:
    """When each of ``users`` last asked for what is logged, RFC 3339 in UTC; errors as ``requests``."""
    answer = read(primary, _SCRIPTS.sent("last-seen", _LOG, *users, title="audit log", timeout=_SECONDS), _Seen)
    return _required(primary, answer).times


def _required(primary: Host, answer: Found) -> Found:
    if not answer.found:
        hint = f"deploy to it: inv deploy --node {primary.node.name}"
        raise primary.error("it has no audit log yet", hint, usage=True)
    return answer
