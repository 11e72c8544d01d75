"""From a workspace to a bundle and a plan: everything that can be found wrong before a machine is changed."""

from collections.abc import Sequence

from smallkube.core import process
from smallkube.core.workspace import write_file
from smallkube.deploy import facts, plan
from smallkube.deploy.facts import SCRIPTS
from smallkube.deploy.plan import BuildOn, Goal, Options, Plan
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.nix import build, bundle, lock, render
from smallkube.nix.bundle import Bundle
from smallkube.remote import scripts
from smallkube.remote.ssh import SshHost
from smallkube.secrets import age, host_keys, policy, recipients, transaction


def prepare(
    cluster: Cluster,
    nodes: Sequence[Node],
    goal: Goal,
    options: Options | None = None,
    *,
    may_lock: bool = True,
) -> tuple[Plan, Bundle]:
    """The plan and what it deploys. ``may_lock``: make nix/flake.lock when it is missing.

    Raises UsageError or ErrorGroup when the workspace is not fit to be deployed.
    """
    options = options or Options()
    if options.build_on is BuildOn.LOCAL:
        build.programs()
    plan.check_rendered(cluster, render.plan(cluster).changed)
    whole = bundle.assemble(cluster)
    plan.check_secrets(nodes, _findings(cluster))
    if may_lock and lock.FLAKE_LOCK not in whole.files:
        write_file(cluster.workspace.flake_lock, _lock(cluster, whole))
        whole = bundle.assemble(cluster)
    stale = facts.stale_peers(cluster, nodes, whole.files["keys/peers.json"])
    if options.with_peers and stale.left_out:
        nodes = cluster.inventory.select([*(node.name for node in nodes), *stale.left_out])
        stale = facts.StalePeers((*stale.changed, *stale.left_out))
    return plan.make(nodes, whole.digest, goal, options, stale), whole


def _lock(cluster: Cluster, unlocked: Bundle) -> bytes:
    """Lock the flake's inputs with the Nix of this machine, else with that of the primary."""
    if process.find("nix"):
        return lock.here(unlocked.files, update=False)
    with SshHost(cluster.workspace, cluster.inventory.primary) as host:
        scripts.push(host, "bundles", unlocked)
        return host.run_checked(SCRIPTS.sent("lock-flake", unlocked.digest, timeout=lock.SECONDS)).stdout


def _findings(cluster: Cluster) -> Sequence[recipients.Finding]:
    """What the files show of their recipients; a deploy does not need the master key."""
    keys = transaction.read_keys(cluster.workspace)
    recipient = age.read_recipient(cluster.workspace, None) or ""
    known = recipients.Keyring(recipient, host_keys.load_hosts(cluster))
    return recipients.examine_all(policy.expected(cluster.inventory, keys.files), keys.files, known, keys.records, None)
