"""Rotations of keys: WireGuard, certificates, the key that signs ServiceAccount tokens, the master key."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from smallkube.cli import output
from smallkube.cli.context import CHANGE, Current, Limits, Seconds, changing, task
from smallkube.core import ui
from smallkube.core.errors import UsageError, listed

if TYPE_CHECKING:
    from smallkube.operations.certificates import Rotation
    from smallkube.operations.engine import Outage
    from smallkube.operations.master import Plan as MasterPlan
    from smallkube.secrets.policy import Secret


@task("node", *CHANGE)
def rotate_wireguard(here: Current) -> None:
    """Rotate the WireGuard keys and peers.json.

    Needs no private key. Asks all nodes first: a node with newer keys, or other
    values than the inventory, refuses it. The previous keys are removed from
    keys/, but stay in git history. After an interruption the same command (or
    keys.generate) resumes.
    """
    from smallkube.operations import wireguard

    nodes = [item.name for item in here.nodes]
    outcome = wireguard.Outcome((), ())
    output.announce(here, here.inventory.nodes)
    with changing(here) as completed:
        planned = wireguard.plan(here.cluster, nodes, completed)
        for text in wireguard.warnings(here.cluster, here.connect) if planned else ():
            ui.warn(text)
        if planned and not here.dry_run:
            ui.confirm(f"replace the WireGuard keys of {listed(row.node for row in planned)}?", yes=here.yes)
            outcome = wireguard.act(here.cluster, planned)
    lines = [f"written keys/{name}" for name in outcome.written]
    lines += [f"peers.json: {change}" for change in outcome.peers]
    lines.append(f"{'would make new' if here.dry_run else 'new'} WireGuard keys: {', '.join(nodes)}")
    output.show(here, {"rotated": nodes, "written": outcome.written, "peers": outcome.peers}, "\n".join(lines))
    if not here.dry_run:
        ui.message("next: inv deploy (all nodes in lockstep; each rolls back unless the tunnel works)")


_VERBS = {True: "would issue", False: "issued"}


@task("node", *CHANGE)
def rotate_certificates(
    here: Current,
    all: Annotated[bool, "also certificates without a problem"] = False,
    identities: Annotated[bool, "only those of nodes as users of the API server, which does not restart"] = False,
    pause: Annotated[bool, "stop when the new ones are trusted everywhere, before they are used"] = False,
    abort: Annotated[bool, "undo a rotation under way: the previous certificates stay"] = False,
    no_deploy: Annotated[bool, "replace them in keys/ only: for a cluster that does not run"] = False,
    timeout: Annotated[Seconds, "seconds for pods and kubelets to use the new ones"] = 300,
) -> None:
    """Rotate certificates without an outage.

    Replaces the certificates that keys.check complains about, and their keys.
    Deploys the new ones as trusted, then uses them, then removes the trust in the
    previous ones. Pods that read ca.crt only at start must be restarted in
    between: --pause. After an interruption the same command resumes.
    """
    from smallkube.operations import certificates
    from smallkube.secrets.age import read_master

    if abort and (pause or no_deploy):
        raise UsageError("--abort can't be combined with --pause or --no-deploy")
    nodes, runner = {item.name for item in here.nodes}, output.Runner(here, "certificates", rotation=not no_deploy)
    why: dict[Secret, list[str]] = {}
    rows = certificates.under_way(here.inventory, runner.keys)
    if not rows and not abort:
        why = _chosen(here, nodes, all, identities)
        rows = tuple(row for row in why if why[row])
    elif no_deploy:
        raise UsageError("a rotation is under way", hint="complete it without --no-deploy, or --abort it")
    master = None if here.dry_run else read_master(here.workspace)
    rotation = certificates.Rotation(here.cluster, master, here.connect, runner.deploy, rows, timeout)
    operation = rotation.replacement() if no_deploy else rotation.operation(runner.keys, abort=abort, pause=pause)
    machines = () if no_deploy or not rows else here.inventory.nodes
    if here.dry_run or not rows:
        output.announce(here, machines)
        _show_issued(here, rows, why, _VERBS[here.dry_run], steps=operation.titles(runner.keys) if rows else ())
        return
    runner.run(operation, f"replace {', '.join(rotation.files)}, and their keys?", machines)
    _show_issued(here, rows, why, "aborted" if abort else "issued", reached=rotation.stage, outage=runner.outage)
    _show_next(rotation, runner.outage)


def _chosen(here: Current, nodes: Collection[str], everything: bool, identities: bool) -> "dict[Secret, list[str]]":
    """Key → why it is replaced."""
    from smallkube.operations import certificates

    found = certificates.choose(here.cluster, nodes, everything=everything, now=datetime.now(UTC))
    return {row: faults for row, faults in found.items() if row.user or not identities}


def _show_next(rotation: "Rotation", outage: "Outage | None") -> None:
    """What is left for the operator; ``outage`` is None when nothing was deployed."""
    from smallkube.operations.certificates import Stage
    from smallkube.secrets import policy

    if outage is None:
        ui.message("next: inv deploy, to all nodes: each trusts only the certificates that it was deployed with")
    else:
        ui.message(outage.words)
    if rotation.stage is Stage.TRUSTED:
        ui.message("paused: the new certificates are trusted everywhere, and the previous ones are in use")
        ui.message("next: restart pods that read ca.crt only at start, then run the same without --pause")
    if policy.API_CERTIFICATE in rotation.files:
        ui.message("kubeconfigs outside the cluster have the previous certificate: inv cluster.kubeconfig")


def _show_issued(
    here: Current,
    rows: "Sequence[Secret]",
    why: "Mapping[Secret, Sequence[str]]",
    verb: str,
    *,
    steps: Sequence[str] = (),
    **more: object,
) -> None:
    """``why`` is empty when a rotation was resumed."""
    reasons = {row: "; ".join(why.get(row, ("rotation resumed",))) for row in rows}
    issued = [{"file": row.certificate.file, "why": reasons[row]} for row in rows if row.certificate]
    kept = sum(not faults for faults in why.values())
    lines = [f"{verb} keys/{one['file']}: {one['why']}" for one in issued]
    lines += [f"{verb} {len(issued)}, kept {kept}", *(f"- {text}" for text in steps)]
    output.show(here, {"issued": issued, "kept": kept, "steps": steps, **more}, "\n".join(lines))


@task(*CHANGE)
def rotate_issuer(
    here: Current,
    overlap: Annotated[int, Limits(0), "seconds for programs to read their new token"] = 120,
    abort: Annotated[bool, "undo a rotation under way: the previous key stays"] = False,
    timeout: Annotated[Seconds, "seconds for kubelets to replace the tokens of their pods"] = 300,
) -> None:
    """Rotate the key that signs ServiceAccount tokens.

    The new key signs at once; tokens of the previous key are accepted until no
    pod and no Secret has one. Pods keep running; tokens made by `kubectl create
    token` must be made again. After an interruption the same command resumes.
    """
    from smallkube.operations import issuer as rotating
    from smallkube.secrets.age import require_master

    runner = output.Runner(here, "issuer")
    master = None if here.dry_run else require_master(here.workspace, "to tell the keys apart")
    rotation = rotating.Rotation(here.cluster, master, here.connect, runner.deploy, overlap, timeout)
    operation = rotation.operation(runner.keys, abort=abort)
    if runner.run(operation, "replace the key that signs ServiceAccount tokens?"):
        text = f"tokens are signed by the key {rotation.key}; tokens of other keys are refused"
        runner.show({"key": rotation.key}, text)


@task(*CHANGE)
def rotate_master(
    here: Current,
    drop_old: Annotated[bool, "remove the previous identity from keys/master_key, once a rotation is complete"] = False,
) -> None:
    """Rotate the master key.

    It decrypts every secret. Adds a new identity above the current one in
    keys/master_key, also in its place in cluster.secrets.admins, and re-encrypts
    all of keys/. The previous identity stays, for earlier backups, until you run
    this with --drop-old. Lists what to replace if the previous identity was
    exposed.
    """
    from smallkube.operations import master as rotating

    output.announce(here, ())
    with changing(here):
        planned = rotating.plan(here.cluster)
        if here.dry_run:
            done = planned.old if drop_old else planned.files
        else:
            _confirm_master(here, planned, drop_old)
            done = rotating.drop(here.workspace, planned) if drop_old else rotating.act(here.cluster, planned)
        after = planned if here.dry_run else rotating.plan(here.cluster)
    _show_master(here, planned, after, drop_old, done)
    if planned.stray:
        ui.warn(f"not re-encrypted, no secrets of this inventory: {', '.join(planned.stray)} (inv keys.check)")


def _show_master(
    here: Current, planned: "MasterPlan", after: "MasterPlan", drop_old: bool, done: tuple[str, ...]
) -> None:
    from smallkube.operations.master import Stage, reissue
    from smallkube.secrets import policy

    existing = {path.name for path in here.workspace.keys_dir.glob("*.age")}
    affected = reissue(row for row in policy.secrets_of(here.inventory) if row.file in existing)
    backups = [] if here.dry_run else _backups(here, after.master)
    commands = [{"command": command, "names": names} for command, names in affected.items()]
    value = {"stage": after.stage, "master": after.master, "old": after.old, "reissue": commands, "backups": backups}
    if drop_old:
        verb = "would remove" if here.dry_run else "removed"
        text = "\n".join(f"{verb} the identity of {recipient}" for recipient in done)
        nothing = "keys/master_key holds no identity but the master"
        output.show(here, {"dropped": done, **value}, text or nothing)
        return
    verb = "would re-encrypt" if here.dry_run else "re-encrypted"
    text = "\n".join(f"{verb} keys/{name}" for name in done)
    nothing = f"nothing to do: {planned.master} is the master already, and a previous identity is below it"
    output.show(here, {"rekeyed": done, **value}, text or nothing)
    if planned.stage is Stage.BOTH:
        ui.message("inv keys.rotate-master --drop-old removes the previous one; only then can you rotate again")
    elif not here.dry_run:
        ui.message(f"the master is now {after.master}")
        ui.warn("keep a copy of keys/master_key in a safe place; commit keys/")
        ui.message("no node needs the new files; the next deploy brings them, and restarts services that use them")
    if not here.dry_run:
        ui.message(f"the previous identity stays in keys/master_key: {len(backups)} backups here need it")
        ui.message("when they are no longer needed: inv etcd.backup, then inv keys.rotate-master --drop-old")
    ui.message("the previous identity and git history together decrypt all of this; if it was exposed, replace:")
    for command, names in affected.items():
        ui.message(f"  {command}\n    ({', '.join(names)})")
    ui.message("with a backup of etcd as well: every Secret in the cluster; change those at their source")


def _backups(here: Current, master: str) -> list[str]:
    """Names of the backups here that ``master`` does not decrypt."""
    from smallkube.etcd import catalog

    there = catalog.read(catalog.folder_of(here.cluster))
    return [record.name for record in there.records if master not in record.recipients]


def _confirm_master(here: Current, planned: "MasterPlan", drop_old: bool) -> None:
    """Ask, where there is something to do."""
    from smallkube.operations.master import Stage

    complete = planned.stage is Stage.BOTH
    if not complete and not drop_old:
        ui.confirm("replace the master identity?", yes=here.yes)
    elif complete and drop_old:
        if backups := _backups(here, planned.master):
            ui.warn(f"{len(backups)} backups here ({backups[0]} to {backups[-1]}) can't be decrypted without it")
        ui.warn("nor can earlier versions of keys/ in git history, and backups elsewhere")
        ui.confirm("remove the previous identity from keys/master_key?", yes=here.yes)
