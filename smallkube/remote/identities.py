"""Which keys are offered to a machine: those that OpenSSH would offer, in its order."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from paramiko.agent import AgentSSH

from smallkube.core.errors import SmallkubeError
from smallkube.remote.openssh import Route

AUTH_SECONDS = 30
"""Time limit for the answer to one key, unless ConnectTimeout is longer: PAM and DNS of a machine may be slow."""


@dataclass(frozen=True)
class Identity:
    """A key to offer; ``public``: its public half in wire form, if known. One that is ``locked`` has a passphrase."""

    name: str
    public: bytes
    key: paramiko.PKey | None = None
    locked: bool = False


@dataclass
class Identities:
    """What paramiko takes as an auth_strategy: it calls ``authenticate``.

    ``only``: a key file that is the only one to be used, without the agent; ``error`` makes one that names the machine.
    ``locked``: key files that only a passphrase opens. ``offered``: the names of the keys that the machine has seen.
    """

    route: Route
    only: Path | None
    error: Callable[[str, str], SmallkubeError]
    locked: list[str] = field(default_factory=list)
    offered: list[str] = field(default_factory=list)

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Raises SmallkubeError, and what paramiko raises when the connection breaks."""
        limit = transport.auth_timeout = max(AUTH_SECONDS, self.route.seconds)
        for name, key in self.keys():
            self.offered.append(name)
            began = time.monotonic()
            further: list[str] = []
            try:
                further = transport.auth_publickey(self.route.ssh.user, key)
            except paramiko.BadAuthenticationType as error:
                allowed = ", ".join(error.allowed_types)
                raise self.error(f"no SSH key is accepted there, but: {allowed}", _LET_IN) from error
            except paramiko.AuthenticationException as error:
                if time.monotonic() - began >= limit:
                    hint = "look at DNS and PAM on the machine, or raise ConnectTimeout in ~/.ssh/config"
                    raise self.error(f"authentication took more than {limit} s", hint) from error
                if not transport.is_active():
                    reason = f"closed the connection after {len(self.offered)} SSH keys ({self._seen})"
                    hint = "name the right one in ~/.ssh/config, with IdentityFile and IdentitiesOnly yes"
                    raise self.error(reason, hint) from error
            if transport.is_authenticated():
                return
            if further:
                raise self.error(f"more than an SSH key is asked for: {', '.join(further)}", _LET_IN)
        raise self._refused()

    @property
    def _seen(self) -> str:
        return ", ".join(self.offered)

    def _refused(self) -> SmallkubeError:
        if self.locked:
            reason = f"the SSH key has a passphrase: {', '.join(self.locked)}"
            return self.error(reason, "load it into ssh-agent (ssh-add)")
        if not self.offered:
            return self.error("no SSH key to offer was found", "make one (ssh-keygen), or start ssh-agent")
        return self.error(f"the machine does not accept our SSH key ({self._seen})", _LET_IN)

    def keys(self) -> Iterator[tuple[str, paramiko.PKey]]:
        """Files' keys that the agent has, the agent's others, the files' others; as pubkey_prepare of OpenSSH does."""
        listed = self.route.options.get("certificatefile", []) + self.route.options.get("identityfile", [])
        paths = [str(self.only)] if self.only else [self.route.expanded(value) for value in listed]
        files = [_file(path) for path in paths]
        agent = [] if self.only else self._agent()
        held = {identity.public: identity for identity in agent}
        self.locked = [identity.name for identity in files if identity.locked and identity.public not in held]
        named = [held[identity.public] for identity in files if identity.public in held]
        others = [] if self.route.option("identitiesonly") == "yes" else agent
        seen: set[bytes] = set()
        for identity in (*named, *others, *files):
            if identity.key is not None and identity.public not in seen:
                seen.add(identity.public)
                yield identity.name, identity.key

    def _agent(self) -> list[Identity]:
        named = next(iter(self.route.options.get("identityagent", [])), "SSH_AUTH_SOCK")
        variable = named == "SSH_AUTH_SOCK" or named.startswith("$")
        path = os.environ.get(named.removeprefix("$"), "") if variable else named
        if path in ("", "none"):
            return []
        try:
            keys = _Agent(Path(self.route.expanded(path)).expanduser()).get_keys()
        except (OSError, paramiko.SSHException):
            return []
        return [Identity(f"{key.comment or key.fingerprint} in ssh-agent", key.blob, key) for key in keys]


_LET_IN = "let your SSH key in for that user (~/.ssh/authorized_keys)"


class _Agent(AgentSSH):
    """The agent that listens at a path; paramiko's own Agent knows only SSH_AUTH_SOCK."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        wire = socket.socket(socket.AF_UNIX)
        wire.connect(str(path))
        self._connect(wire)  # type: ignore[attr-defined]


def _public(name: str) -> bytes:
    """The wire form of the public key beside a key file; empty when there is none."""
    try:
        return paramiko.pkey.PublicBlob.from_file(str(Path(f"{name}.pub").expanduser())).key_blob
    except (OSError, ValueError):
        return b""


def _file(path: str) -> Identity:
    """The key in a file, or its public half alone; as with OpenSSH, a file may be missing or no key."""
    name = path.removesuffix(".pub")
    try:
        key = paramiko.PKey.from_path(name)
        return Identity(name, key.public_blob.key_blob if key.public_blob else key.asbytes(), key)
    except (TypeError, paramiko.PasswordRequiredException):  # the former is cryptography's
        return Identity(name, _public(name), locked=True)
    except (OSError, ValueError, paramiko.SSHException):
        return Identity(name, _public(name))
