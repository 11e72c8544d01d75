"""What a machine needs to boot and to be reached, and nix/hosts does not have, as far as its words tell."""

import re
from collections.abc import Mapping, Sequence

HINT = "copy what the machine has in /etc/nixos"
_NEEDED = {
    "file system": r"fileSystems|disko",
    "boot loader": r"boot\.loader|loader\s*=|disko",
    "authorized SSH key": r"authorizedKeys",
}
"""The words by which a configuration names each. NixOS itself gives the exact answer: see ``describe.nix``."""
_CONTAINER = "boot.isContainer"
_COMMENT = r"(?s)/\*.*?\*/|#[^\n]*"


def lacking(files: Mapping[str, bytes], nodes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Node → what it lacks; ``files``: everything that Nix sees."""
    own = {name: data.decode(errors="replace") for name, data in files.items() if name.startswith("nix/hosts/")}
    texts = {name: re.sub(_COMMENT, "", text) for name, text in own.items()}
    found = {}
    for node in nodes:
        others = re.compile(rf"nix/hosts/(?!{node}(?![0-9]))node[0-9].*")
        text = "\n".join(each for name, each in texts.items() if not others.fullmatch(name))
        missing = [f"no {what}" for what, words in _NEEDED.items() if not re.search(words, text)]
        found[node] = () if _CONTAINER in text else tuple(missing)
    return found
