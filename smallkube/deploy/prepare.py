"""From a workspace to a bundle and a plan: everything that can be found wrong before a machine is changed."""

from collections.abc import Sequence

from smallkube.core import runner
from smallkube.core.workspace import Workspace, write_file
from smallkube.deploy import facts, plan, stale_peers
from smallkube.deploy.plan import BuildOn, Goal, Options, Plan
from smallkube.deploy.stale_peers import Survey
from smallkube.inventory.models import Inventory, Node
from smallkube.nix import build, bundle, lock, render
from smallkube.nix.bundle import Bundle
from smallkube.remote.ssh import SshHost
from smallkube.secrets import keyring, policy, proof, store


def prepare(
    workspace: Workspace,
    inventory: Inventory,
    nodes: Sequence[Node],
    goal: Goal,
    options: Options | None = None,
    *,
    may_lock: bool = True,
) -> tuple[Plan, Bundle]:
    """The plan and what it deploys. ``may_lock``: make nix/flake.lock when it is missing.

    Raises UsageError or ManyErrors when the workspace is not fit to be deployed.
    """
    options = options or Options()
    if options.build_on is BuildOn.LOCAL:
        build.programs()
    changed = render.plan(workspace, inventory).changed
    plan.unrendered(inventory, [workspace.relative(path) for path in changed])
    whole = bundle.assemble(workspace, inventory)
    plan.check_secrets(nodes, _findings(workspace, inventory))
    if may_lock and lock.FLAKE_LOCK not in whole.files:
        write_file(workspace.flake_lock, _lock(workspace, inventory, whole))
        whole = bundle.assemble(workspace, inventory)
    found = stale_peers.survey(workspace, inventory, nodes, whole.files["keys/peers.json"])
    if options.with_peers and found.left_out:
        nodes = inventory.select([*(node.name for node in nodes), *found.left_out])
        found = Survey((*found.changed, *found.left_out))
    return plan.make(nodes, whole.digest, goal, options, found), whole


def _lock(workspace: Workspace, inventory: Inventory, unlocked: Bundle) -> bytes:
    """Pin the flake's inputs with the Nix of this machine, else with that of the primary."""
    if runner.find("nix"):
        return lock.here(unlocked.files, update=False)
    with SshHost(workspace, inventory.primary) as session:
        for kind, content in (("scripts", facts.scripts()), ("bundles", unlocked)):
            facts.push(session, kind, content)
        return session.run_checked(facts.script("lock-flake", unlocked.digest, timeout=lock.SECONDS)).stdout


def _findings(workspace: Workspace, inventory: Inventory) -> Sequence[proof.Finding]:
    """What the files show of their recipients; the master key is not needed to deploy, so it is not asked."""
    keys = store.read_keys(workspace)
    recipient = keyring.read_recipient(workspace, None) or ""
    known = keyring.Keyring(recipient, keyring.load_hosts(workspace, inventory))
    return proof.examine_all(policy.expected(inventory, keys.files), keys.files, known, keys.records, None)
