"""The users of the API server that it knows by a certificate: which leaves it accepts, and how they reach it.

Each leaf is pinned by itself: the client CA file is the bundle of exactly these (nix/modules/identities.nix).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import Inventory
from smallkube.secrets import policy
from smallkube.secrets.people import Person


@dataclass(frozen=True)
class Leaf:
    """A certificate in keys/ (``file`` is relative to it), and the user and groups that it must name."""

    file: str
    user: str
    groups: tuple[str, ...]


def leaves(inventory: Inventory, existing_files: Collection[str], users: Iterable[Person]) -> tuple[Leaf, ...]:
    """All that are accepted; during a rotation also the other version, as far as ``existing_files`` has it."""
    return (*of_nodes(inventory, existing_files), *(Leaf(one.certificate, one.name, one.groups) for one in users))


def of_nodes(inventory: Inventory, existing_files: Collection[str]) -> Iterable[Leaf]:
    """Those of the programs on the nodes."""
    for row in policy.identities(inventory):
        assert row.certificate
        for file in row.certificate.trusted_files:
            if file == row.certificate.file or file in existing_files:
                yield Leaf(file, row.certificate.common_name, row.certificate.groups)


def document(inventory: Inventory, keys_dir: Path, users: Iterable[Person]) -> str:
    """What the program ``kube-identities`` takes: each leaf after a line ``# identity FILE USER [GROUP]...``.

    The last line is ``# end COUNT``. kube.identitiesDocument of nix/modules/identities.nix is the same text.
    Raises SmallkubeError when a certificate is missing.
    """
    found = leaves(inventory, frozenset(path.name for path in keys_dir.glob("*.*")), users)
    return "".join(_entry(leaf, keys_dir) for leaf in found) + f"# end {len(found)}\n"


def _entry(leaf: Leaf, keys_dir: Path) -> str:
    try:
        pem = (keys_dir / leaf.file).read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        hint = "restore it from git" if "/" in leaf.file else "inv keys.generate"
        raise SmallkubeError("missing, or not a certificate", where=f"keys/{leaf.file}", hint=hint) from error
    return f"# identity {' '.join((leaf.file, leaf.user, *leaf.groups))}\n{pem}"
