"""People who may use the cluster: who they are, in keys/users.json, and the certificate of each, keys/users/NAME.crt.

A person's key is made by the person, who sends a request, or here. Here it is encrypted to the person alone
(keys/users/NAME.key.age), or it is a secret that the administrators read (keys/user_NAME.key.age, see ``policy``). The
certificate is what the API server accepts, exactly this one; users.json repeats what it says, so that a review shows
it, and the two must agree.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from smallkube.core.errors import UsageError
from smallkube.core.workspace import Workspace
from smallkube.secrets import policy

ROLES = ("view", "edit", "admin", "cluster-admin")
"""ClusterRoles that every cluster has (kubernetes.io/docs/reference/access-authn-authz/rbac, "User-facing roles")."""
WARNING = timedelta(days=14)
"""So long before and after a person's certificate expires, ``cluster.status`` warns."""
MAX_GROUPS = 20
NONE = "none"
"""The word that stands for no role and no group; no group has this name."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_GROUP = re.compile(r"[a-z0-9]([a-z0-9:._-]{0,62}[a-z0-9])?")
_RESERVED = re.compile(r"root|front-proxy-client|(kube|kubelet|system)(-.*)?")
"""Users of the cluster itself, some of which RBAC gives rights to; policy has the ones in use."""


@dataclass(frozen=True)
class Person:
    """One user. ``role`` is one of ROLES or "", ``namespace`` where it holds or "" for everywhere.

    ``added`` and ``expires`` are RFC 3339 in UTC, to the second. ``removed``: a removal was begun; the certificate
    counts no more.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    name: str
    groups: tuple[str, ...]
    role: str
    namespace: str
    added: str
    expires: str
    removed: bool = False

    @property
    def ends(self) -> datetime:
        return datetime.fromisoformat(self.expires)

    @property
    def certificate(self) -> str:
        """File in keys/."""
        return f"users/{self.name}.crt"

    @property
    def own_key(self) -> str:
        """File in keys/ with the key, encrypted to the person alone, if it was made here for them."""
        return f"users/{self.name}.key.age"

    @property
    def key(self) -> policy.Secret:
        """The secret with the key, if administrators read it."""
        return policy.person_key(self.name)


@dataclass(frozen=True)
class _File:
    """users.json."""

    users: tuple[Person, ...]


def read(workspace: Workspace) -> dict[str, Person]:
    """The users by name; none where there is no such file. Raises UsageError when it is damaged or one is not valid."""
    found = workspace.read_json(workspace.users_file, _File, "restore it from git; after a merge keep a line for each")
    people = found.users if found else ()
    where = workspace.relative(workspace.users_file)
    for person in people:
        require_valid(person, where)
    names = [person.name for person in people]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"{min(twice)} is there twice", where=where, hint="after a merge keep one line for each")
    return {person.name: person for person in people}


def render(people: Mapping[str, Person]) -> bytes:
    """The file's text: sorted, one user a line, so that merges in git stay readable."""
    rows = [f"    {json.dumps(asdict(person))}" for _, person in sorted(people.items())]
    return ('{\n  "users": [\n' + ",\n".join(rows) + "\n  ]\n}\n").encode()


def require_valid(person: Person, where: str | None = None) -> None:
    """Raise UsageError unless these are names, times and a role that a user can have."""

    def refuse(problem: str, hint: str) -> UsageError:
        return UsageError(problem, where=where, hint=hint)

    label = "lower-case letters, digits and dashes, 63 characters at most"
    if not _NAME.fullmatch(person.name):
        raise refuse(f"no name for a user: {person.name[:80]!r}", f"expected: {label}")
    if _RESERVED.fullmatch(person.name):
        raise refuse(f"{person.name} is a name of the cluster's own", "choose another")
    for group in person.groups:
        if not _GROUP.fullmatch(group) or group.split(":")[0] in ("system", NONE):
            hint = "expected: letters in lower case, digits and . : _ - and not system:… or none, 64 characters at most"
            raise refuse(f"no group for a user: {group[:80]!r}", hint)
    if len(person.groups) > MAX_GROUPS or len({*person.groups}) < len(person.groups):
        raise refuse(f"{person.name} has a group twice, or more than {MAX_GROUPS}", "name each group once")
    if person.role not in ("", *ROLES):
        raise refuse(f"no role: {person.role[:80]!r}", f"one of {', '.join(ROLES)}")
    if person.namespace and not _NAME.fullmatch(person.namespace):
        raise refuse(f"no name for a namespace: {person.namespace[:80]!r}", f"expected: {label}")
    if person.namespace and not person.role:
        raise refuse(f"a namespace without a role ({person.name})", f"name the role too: {', '.join(ROLES)}")
    for text in (person.added, person.expires):
        if not _is_time(text):
            raise refuse(f"no time: {text[:80]!r} ({person.name})", "expected such as 2027-01-31T12:00:00Z")


def stamp(time: datetime) -> str:
    """RFC 3339, to the second."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_time(text: str) -> bool:
    try:
        return stamp(datetime.fromisoformat(text)) == text
    except ValueError:
        return False


def accepted(workspace: Workspace, now: datetime | None = None) -> tuple[Person, ...]:
    """Those whose certificates count; without those that have expired by ``now``, if that is given."""
    return tuple(each for each in read(workspace).values() if not each.removed and (now is None or now < each.ends))


def warnings(workspace: Workspace, now: datetime) -> Iterator[str]:
    """Whose certificate expires soon, or has expired of late. Raises UsageError as ``read``."""
    for person in read(workspace).values():
        again = f"inv users.add {person.name} --expires 90d"
        if person.removed:
            yield f"the removal of {person.name} was interrupted (inv users.remove {person.name})"
        elif now < person.ends <= now + WARNING:
            yield f"the certificate of {person.name} expires on {person.ends:%Y-%m-%d} ({again})"
        elif person.ends <= now < person.ends + WARNING:
            gone = f"{again}, or inv users.remove {person.name}"
            yield f"the certificate of {person.name} expired on {person.ends:%Y-%m-%d} ({gone})"
