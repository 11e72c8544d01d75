"""Writing kubeconfigs, whose ever they are: where to, what may be replaced, and what they trust."""

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from smallkube.cli.context import Current
from smallkube.core import ui
from smallkube.core.errors import UsageError
from smallkube.core.files import write_file
from smallkube.core.workspace import expanded

if TYPE_CHECKING:
    from smallkube.kube.kubeconfig import Credential

Out = Annotated[str | None, "file to write, or - (default: a file of its own in .smallkube)"]
Merge = Annotated[bool, "add to a kubeconfig, keeping all else: --out, else $KUBECONFIG, else ~/.kube/config"]
Context = Annotated[str | None, "name of the context (default: that of the cluster; of a person, CLUSTER-NAME)"]
Via = Annotated[str, "external | tunnel | HOST[:PORT]: where to reach the API server"]
Force = Annotated[bool, "replace a file or an entry that this task has not written"]


@dataclass(frozen=True)
class Target:
    """Where a kubeconfig of the user ``name`` is written, and what is in it beside the credential."""

    here: Current
    name: str
    out: str | None
    merge: bool
    context: str
    via: str
    force: bool

    def write(self, credential: "Callable[[], Credential]") -> None:
        """Write it, once all that can be refused has been; ``credential`` opens secrets. Raises UsageError."""
        from smallkube.kube import kubeconfig
        from smallkube.secrets import certificates

        here = self.here
        if self.merge and self.out == "-":
            raise UsageError("--merge with --out -", hint="name the file to add to")
        trusted = _pinned(here)
        names = certificates.names_in(certificates.load(trusted[0], "keys/apiserver.crt")) if trusted else ()
        endpoint = kubeconfig.endpoint(here.inventory, self.via, names)
        path = None if self.out == "-" else self._path()
        before = self._replaced(path) if path else ""
        who, authorities = credential(), b"".join(trusted) or None
        text = kubeconfig.render(here.inventory, who, authorities, endpoint, self.context)
        if self.merge:
            text = kubeconfig.merge(before, text, force=self.force, where=str(path))
        if not trusted:
            ui.warn("cluster.api.tls is insecure: any server at that address can read the token")
        if path is None:
            ui.raw_result(text.encode())
            return
        write_file(path, text, 0o600)
        ui.result(str(path))
        ui.message(f"use it by: {self._use(path.absolute())}")

    def _use(self, path: Path) -> str:
        """The command line that makes kubectl use the file."""
        usual = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
        export = "" if usual == str(path) else f"export KUBECONFIG={shlex.quote(str(path))}"
        return " && ".join(filter(None, [export, f"kubectl --context {shlex.quote(self.context)}" * self.merge]))

    def _path(self) -> Path:
        if self.out:
            return expanded(self.out)
        if not self.merge:
            file = "kubeconfig" if self.name == "root" else f"kubeconfig-{self.name}"
            return self.here.workspace.state_dir / file
        named = [word for word in os.environ.get("KUBECONFIG", "").split(os.pathsep) if word]
        if len(named) > 1:
            raise UsageError("KUBECONFIG names several files", hint="name the one to add to by --out")
        return expanded(named[0] if named else "~/.kube/config")

    def _replaced(self, path: Path) -> str:
        """What is in the file now. Raises UsageError where something would be lost."""
        from smallkube.kube import kubeconfig

        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise UsageError("is no regular file", where=str(path), hint="name the file itself")
        try:
            text = path.read_text() if path.exists() else ""
        except (OSError, ValueError):
            text = "unreadable"
        mine = self.merge or self.force or kubeconfig.is_ours(text, self.here.inventory.cluster.name, self.name)
        if not mine:
            raise UsageError("is another file, which would be lost", where=str(path), hint="--out another, or --force")
        return text


def _pinned(here: Current) -> list[bytes]:
    """The API server's certificate, and what is trusted beside it during a rotation; none where it isn't checked."""
    from smallkube.secrets import policy

    if here.inventory.cluster.api.tls != "pinned":
        return []
    files = [here.workspace.keys_dir / name for name in policy.api_certificate(here.inventory).trusted_files]
    if not files[0].is_file():
        raise UsageError("missing", where=here.workspace.relative(files[0]), hint="run `inv keys.generate`")
    return [file.read_bytes() for file in files if file.is_file()]
