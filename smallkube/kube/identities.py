"""The certificates that the API server accepts, replaced on the primary at once: nothing is restarted for it."""

from smallkube.inventory.cluster import Cluster
from smallkube.remote.host import Command, Host
from smallkube.secrets import identities


def document(cluster: Cluster) -> str:
    """The document of all leaves that keys/ has now. Raises SmallkubeError when one is missing."""
    return identities.document(cluster.inventory, cluster.workspace.keys_dir)


def send(primary: Host, text: str) -> None:
    """Have the API server accept exactly the leaves in ``text``, the document; the next deploy writes the same.

    Also removes others from what aggregated API servers are told, as far as the API server answers. Raises
    SmallkubeError when the primary refuses it, or has no program for it: nothing was changed then.
    """
    replace = Command(("kube-identities", "replace"), stdin=text.encode(), timeout=60, title="replace identities")
    primary.run_checked(replace)
    primary.run(Command(("kube-identities-publish",), timeout=120, title="publish identities"))
