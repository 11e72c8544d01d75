"""People: who may use the cluster, and by which key."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from smallkube.cli import kubeconfigs, output
from smallkube.cli.context import CHANGE, Current, changing, task, words
from smallkube.core import durations, ui
from smallkube.core.errors import SmallkubeError, UsageError

if TYPE_CHECKING:
    from smallkube.remote.host import Host
    from smallkube.secrets.people import Person


@task()
def add(
    here: Current,
    name: Annotated[str, "user name: lower-case letters, digits and dashes"],
    group: Annotated[list[str], "their groups (repeatable, or separated by commas), or none (default: unchanged)"],
    csr: Annotated[str | None, "certificate request (PEM), or - for standard input (default: make a key here)"] = None,
    recipient: Annotated[str | None, "age or ssh-ed25519 key that gets the key (default: the administrators)"] = None,
    new_key: Annotated[bool, "make a new key, as for a new user; the previous certificate is refused"] = False,
    role: Annotated[str | None, "view | edit | admin | cluster-admin, or none (default: unchanged)"] = None,
    namespace: Annotated[str | None, "the role holds in this namespace only; '*': in all (default)"] = None,
    expires: Annotated[str | None, "validity of the certificate, such as 12h (default: unchanged; new: 90d)"] = None,
) -> None:
    """Add a person, or change what they may do.

    Effective at once, without a restart of the API server. The key is made by
    the person (--csr), or here: encrypted to the person (--recipient), else to
    the administrators. For a user who exists, what no flag names stays as it
    is, and --group names all groups there are to be; a new certificate is
    issued only with --csr, --recipient, --new-key, --group or --expires, and
    needs a new kubeconfig. Repeated, it restores the bindings.
    """
    from smallkube.kube import bindings
    from smallkube.operations import users

    if csr and (recipient or new_key):
        raise UsageError("--csr with --recipient or --new-key", hint="who has made a key needs none made here")
    valid = timedelta(seconds=durations.seconds(expires, "--expires")) if expires else None
    groups = words(group) or None
    wanted = users.Wanted(name, groups, role, namespace, valid, _request(csr) if csr else None, recipient, new_key)
    with changing(here), here.connect(here.inventory.primary) as primary:
        if namespace and namespace != users.EVERYWHERE:
            bindings.require_namespace(primary, namespace)
        users.refuse_older(here.cluster, primary)
        added = users.add(here.cluster, wanted, datetime.now(UTC))
        person = added.person
        if added.issued:
            _describe(here, added)
        _send(here, primary, person)
    ui.result(f"{name}: {_rights(person)}; the certificate expires at {person.expires}")
    ui.message("commit keys/; the next inv nix.render and inv deploy keep it so")


def _send(here: Current, primary: "Host", person: "Person") -> None:
    from smallkube.operations import users

    try:
        users.send(here.cluster, primary, person)
    except SmallkubeError as error:
        hint = error.hint or f"run `inv users.add {person.name}` again when it is solved"
        message = f"{person.name} is in keys/, but the cluster does not know it yet: {error.message}"
        raise SmallkubeError(message, where=error.where, hint=hint) from error


def _describe(here: Current, added: Any) -> None:
    """What was made, and what to do with it."""
    from smallkube.secrets import client_certificates

    person, keys = added.person, here.workspace.keys_dir
    ui.message(f"public key SHA256:{client_certificates.fingerprint(added.key)}")
    if (keys / person.own_key).is_file():
        ui.message(f"keys/{person.own_key} is the private key, which only the recipient can decrypt (age -d)")
    ui.message(f"next: inv users.kubeconfig {person.name}{'' if (keys / person.key.file).is_file() else ' --key FILE'}")


def _request(csr: str) -> bytes:
    """The content of --csr, as far as it can be a request."""
    from smallkube.secrets.client_certificates import MAX_REQUEST

    try:
        if csr == "-":
            return sys.stdin.buffer.read(MAX_REQUEST + 1)
        with Path(csr).open("rb") as file:
            return file.read(MAX_REQUEST + 1)
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where=csr, hint="name the file by --csr") from error


def _rights(person: "Person") -> str:
    if not person.role:
        return "no role"
    return f"{person.role} in {person.namespace}" if person.namespace else f"{person.role} in all namespaces"


@task("json", "wide")
def list_(
    here: Current,
    seen: Annotated[bool, "also ask the primary's audit log when each was last seen"] = False,
) -> None:
    """Show who may use the cluster.

    KEY says who can read the private key; CREDENTIAL is the beginning of what
    inv cluster.audit shows for requests with this certificate.
    """
    from smallkube.kube import audit_log
    from smallkube.secrets import people

    now, known = datetime.now(UTC), people.read(here.cluster.workspace)
    last: dict[str, str] = {}
    if seen and known:
        with here.connect(here.inventory.primary) as primary:
            last = audit_log.last_seen(primary, [*known])
    found = [_entry(here, person, now) | ({"seen": last.get(person.name, "")} if seen else {})
             for person in known.values()]  # fmt: skip
    columns = ("NAME", "GROUPS", "ROLE", "NAMESPACE", "EXPIRES", "KEY", "CREDENTIAL", *(("SEEN",) if seen else ()))
    output.table(here, found, columns, [_row(each) for each in found], spare=("CREDENTIAL", "GROUPS", "KEY"))


def _entry(here: Current, person: "Person", now: datetime) -> dict[str, Any]:
    from smallkube.secrets import certificates, client_certificates

    keys = here.workspace.keys_dir
    key = "recipient" if (keys / person.own_key).is_file() else "person"
    key = "administrators" if (keys / person.key.file).is_file() else key
    pem = here.workspace.read(keys / person.certificate)
    credential = client_certificates.credential(certificates.load(pem, person.certificate)) if pem else ""
    state = "removal interrupted" if person.removed else "expired" if person.ends <= now else "accepted"
    return {
        "name": person.name,
        "groups": person.groups,
        "role": person.role,
        "namespace": person.namespace,
        "added": person.added,
        "expires": person.expires,
        "state": state,
        "key": key,
        "credential": credential,
    }


def _row(entry: dict[str, Any]) -> tuple[object, ...]:
    expires = entry["expires"][:10]
    if entry["state"] != "accepted":
        expires = f"{entry['state']} {expires}" if entry["state"] == "expired" else entry["state"]
    groups, role = ", ".join(entry["groups"]) or "-", entry["role"] or "-"
    namespace = entry["namespace"] or ("all" if entry["role"] else "-")
    shown = (entry["name"], groups, role, namespace, expires, entry["key"])
    time = ((entry["seen"][:19].replace("T", " ") or "never"),) if "seen" in entry else ()
    return (*shown, output.short_credential(entry["credential"]), *time)


@task()
def kubeconfig(
    here: Current,
    name: Annotated[str, "user name"],
    key: Annotated[
        str | None, "path of their private key, for the kubeconfig to name (default: the key itself, if made here)"
    ] = None,
    out: kubeconfigs.Out = None,
    merge: kubeconfigs.Merge = False,
    context: kubeconfigs.Context = None,
    via: kubeconfigs.Via = "external",
    force: kubeconfigs.Force = False,
) -> None:
    """Write a person's kubeconfig.

    A file of mode 0600 with the certificates, and the key where it was made for
    the administrators. With --key FILE the kubeconfig names that file instead,
    and holds no secret; a relative path counts from the kubeconfig's folder.
    """
    from smallkube.kube.kubeconfig import Credential
    from smallkube.secrets import client_certificates, edit

    person, keys = _user(here, name), here.workspace.keys_dir
    pem = here.workspace.read(keys / person.certificate)
    if faults := client_certificates.faults(person, pem):
        raise UsageError(", ".join(faults), where=f"keys/{person.certificate}", hint="restore it from git")
    if not key and not (keys / person.key.file).is_file():
        own = f"decrypt keys/{person.own_key} (age -d), and " if (keys / person.own_key).is_file() else ""
        raise UsageError(f"only {name} has the private key", hint=f"{own}pass --key FILE, where {name} keeps it")
    context = context or f"{here.inventory.cluster.name}-{name}"
    target = kubeconfigs.Target(here, name, out, merge, context, via, force)

    def credential() -> Credential:
        private = key or edit.show(here.cluster, person.key.name)
        if isinstance(private, bytes) and not client_certificates.belongs(pem or b"", private, person.key.file):
            hint = f"restore both from git, or remove and add {name}"
            raise UsageError(f"is not the key of keys/{person.certificate}", where=f"keys/{person.key.file}", hint=hint)
        return Credential.by_certificate(name, pem or b"", private)

    target.write(credential)


def _user(here: Current, name: str) -> "Person":
    from smallkube.secrets import people

    known = people.read(here.cluster.workspace)
    if name not in known:
        raise UsageError(f"no user {name[:80]!r}", hint=f"there are {', '.join(known) or 'none'}; see `inv users.list`")
    return known[name]


@task(*CHANGE)
def remove(here: Current, name: Annotated[str, "user name"]) -> None:
    """Remove a person, and verify the refusal.

    Their certificate is refused at once, without a restart of the API server;
    then their bindings and files in keys/ are deleted. Watches that are open
    end when they time out. After an interruption the same command resumes.
    """
    from smallkube.operations.users import Removal
    from smallkube.secrets import edit
    from smallkube.secrets.age import read_master

    runner = output.Runner(here, "users", rotation=False)
    person = _user(here, name)
    master = None if here.dry_run else read_master(here.workspace)
    private = edit.show(here.cluster, person.key.name) if master and person.key.file in runner.keys.files else None
    removal = Removal(here.cluster, master, here.connect, runner.deploy, person, private)
    if not runner.run(removal.operation(), f"remove {name}?", [here.inventory.primary]):
        return
    refused = removal.refused
    seen = (
        "its certificate is refused"
        if refused is not None
        else "its refusal was not verified, for which its key is needed"
    )
    runner.show({"name": name, "refused_after": refused}, f"{name} is removed: {seen}")
    ui.message("watches that are open end when they time out, within an hour; commit keys/")
