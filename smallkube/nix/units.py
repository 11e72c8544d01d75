"""Units as ``systemd-analyze verify`` is given them, and when it says the same of those of two nodes."""

import re
from collections.abc import Mapping

from smallkube.nix.shellcheck import STORE, plain

_STUB = "/bin/true"
_EXEC = re.compile(r"^(Exec\w+=)([-@:+!|]*)\S+", re.MULTILINE)
_OPAQUE = re.compile(r"^(?:Exec\w+|LoadCredential)=.*$", re.MULTILINE)
_NODE = re.compile(r"node\d{1,3}(?!\d)")


def with_stubs(text: str, dropin: bool) -> str:
    """A unit's ``text`` with a program that exists here in place of those of the node."""
    stubbed = _EXEC.sub(rf"\g<1>\g<2>{_STUB}", text)
    return f"{stubbed}\n[Service]\nExecStart={_STUB}\n" if dropin and "ExecStart=" not in stubbed else stubbed


def shape(units: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The same for ``units`` (name → text) that differ in hashes of the store and, in the words of programs and the
    names of credentials, in nodes, addresses and keys: systemd does not read these."""
    return tuple(sorted((name, _OPAQUE.sub(_without_node, STORE.sub("0" * 32, text))) for name, text in units.items()))


def _without_node(line: re.Match[str]) -> str:
    return _NODE.sub("node0", plain(line[0]))
