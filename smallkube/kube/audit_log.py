"""The API server's audit log: who asked for what, when, from where, and with which result."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smallkube.core.errors import UsageError
from smallkube.remote.host import Host
from smallkube.remote.scripts import Scripts, read

_SCRIPTS = Scripts(Path(__file__).with_name("scripts"))
_LOG = "/var/log/kube-apiserver/audit.log"
"""As in nix/modules/audit.nix; rotated ones are beside it, compressed."""
_SECONDS = 600
"""That is what a full log may take, without an answer until its end."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Request:
    """One request, as far as it is logged (Event of audit.k8s.io/v1); what it does not have is "" or 0.

    ``time`` is when it came, RFC 3339 in UTC. ``resource`` is plural, with its subresource ("pods/exec"); ``path`` is
    there only without one. ``address`` is where the connection came from, ``agent`` what the client calls itself.
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


@dataclass(frozen=True)
class _Answer:
    found: bool
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class Wanted:
    """Which requests; no words stand for any. ``seconds``: how far back, or 0."""

    seconds: int
    limit: int
    users: Sequence[str] = ()
    verbs: Sequence[str] = ()
    namespaces: Sequence[str] = ()
    resources: Sequence[str] = ()


def seconds(text: str) -> int:
    """``text`` such as "90s", "30m", "2h" or "7d" in seconds. Raises UsageError for anything else."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text, re.ASCII)
    if not found:
        raise UsageError(f"--since {text}", hint="expected a number and its unit: 90s, 30m, 2h or 7d")
    return int(found[1]) * _UNITS[found[2]]


def requests(primary: Host, wanted: Wanted) -> tuple[Request, ...]:
    """The newest ``wanted`` requests, oldest first. Raises SmallkubeError; UsageError when there is no log."""
    words = (wanted.users, wanted.verbs, wanted.namespaces, wanted.resources)
    arguments = (_LOG, str(wanted.seconds), str(wanted.limit), *map(",".join, words))
    answer = read(primary, _SCRIPTS.sent("audit", *arguments, title="audit log", timeout=_SECONDS), _Answer)
    if not answer.found:
        hint = f"deploy to it: inv deploy --node {primary.node.name}"
        raise primary.error("it has no audit log yet", hint, usage=True)
    return answer.requests
