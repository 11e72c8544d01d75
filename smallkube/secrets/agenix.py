"""keys/secrets.nix: agenix rules (file name → who may read it), so that the agenix CLI works on the same files."""

from collections.abc import Iterable

from smallkube.secrets.policy import Secret
from smallkube.secrets.recipients import Keyring

_HEAD = """\
# agenix's rules, written by `inv keys.generate` from inventory.yaml and keys/hosts/. Changes made here are lost.
"""


def render(secrets: Iterable[Secret], keyring: Keyring) -> str:
    """The text of secrets.nix for those of ``secrets`` whose readers' host keys are known.

    Everything quoted in it is base64, ``age1…`` or a name from the policy, so nothing needs escaping in Nix.
    """
    rows = [secret for secret in secrets if not keyring.unknown(secret)]
    used = {node for secret in rows for node in secret.readers}
    lines = [_HEAD + "let", f'  master = "{keyring.master}";']
    lines += [f'  {node} = "{key}";' for node, key in keyring.hosts.items() if node in used]
    lines += ["in", "{"]
    lines += [f'  "{row.file}".publicKeys = [ {" ".join(("master", *row.readers))} ];' for row in rows]
    return "\n".join([*lines, "}", ""])
