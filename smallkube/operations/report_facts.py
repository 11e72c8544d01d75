"""Reads what a report shows: asks all machines once, then API server and etcd, and this workspace."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from smallkube import __version__
from smallkube.core.errors import SmallkubeError
from smallkube.deploy import facts, history
from smallkube.deploy.facts import HostFacts
from smallkube.etcd import catalog, drills, retention
from smallkube.inventory import releases
from smallkube.inventory.cluster import Cluster
from smallkube.kube import identities as kube_identities
from smallkube.kube import token_clients, workloads
from smallkube.kube.workloads import Pod, Service
from smallkube.nix import bundle, flake, lockfile
from smallkube.operations import cluster_facts, identities, report, status, tokens
from smallkube.operations.cluster_facts import KUBELET, Facts
from smallkube.operations.machines import SCRIPTS
from smallkube.operations.report import PROBLEM, WARNING, Credential, Finding, Report, Usage, Version
from smallkube.remote import scripts
from smallkube.remote.host import Connect, Host
from smallkube.secrets import audit, certificates, peers, people, policy
from smallkube.secrets.transaction import read_keys

MAX_DEPLOYS = 30

T = TypeVar("T")


@dataclass
class Reader:
    """Reads one report; ``faults``: what could not be read, as findings."""

    cluster: Cluster
    connect: Connect
    now: datetime
    usage: dict[str, Usage] = field(default_factory=dict)
    faults: list[Finding] = field(default_factory=list)

    def read(self) -> Report:
        """Raises SmallkubeError only when the workspace itself can't be read."""
        cluster, inventory = self.cluster, self.cluster.inventory
        whole = bundle.assemble(cluster)
        found = cluster_facts.read(cluster, self.connect, self._machine)
        state = status.of_facts(cluster, self.connect, whole, found, self.now)
        reached = {name: each.facts for name, each in found.machines.items() if not isinstance(each, SmallkubeError)}
        pods, services = self._workloads(found)
        machines = tuple(self._machines(state, reached, pods))
        versions = tuple(self._versions(state, found))
        backups = tuple(self._backups())
        keys = peers.public_keys(peers.read(cluster.workspace))
        credentials = tuple(sorted(self._credentials(), key=_by_urgency))
        findings = [
            *self._of_status(state, found),
            *self._of_keys(),
            *report.of_versions(versions),
            *report.of_machines(machines),
            *report.of_backups(backups, self.now.date()),
            *self.faults,
        ]
        return Report(
            cluster=inventory.cluster.name,
            time=people.stamp(self.now),
            smallkube=__version__,
            api=found.api.version,
            not_ready=found.api.failing,
            etcd=state.etcd,
            nodes=machines,
            links=tuple(report.links(inventory, reached, keys)),
            services=services,
            pods=pods or (),
            versions=versions,
            credentials=credentials,
            backups=backups,
            deploys=tuple(_deploys(reached)),
            findings=tuple(sorted(dict.fromkeys(findings), key=lambda each: each.severity != PROBLEM)),
        )

    def _machine(self, host: Host) -> HostFacts:
        found = facts.of_host(host, self.cluster.inventory)
        with suppress(SmallkubeError):
            self.usage[host.node.name] = scripts.read(host, SCRIPTS.sent("usage"), Usage)
        return found

    def _try(self, read: Callable[[], T], command: str) -> T | None:
        try:
            return read()
        except SmallkubeError as error:
            self.faults.append(Finding(PROBLEM, error.where or "", error.message, command))
            return None

    def _workloads(self, found: Facts[HostFacts]) -> tuple[tuple[Pod, ...] | None, tuple[Service, ...] | None]:
        if not found.api.version:
            return None, None
        primary = self.cluster.inventory.primary

        def ask(question: Callable[[Host], T]) -> Callable[[], T]:
            def asked() -> T:
                with self.connect(primary) as host:
                    return question(host)

            return asked

        more = f"inv deploy.status --node {primary.name}"
        return self._try(ask(workloads.pods), more), self._try(ask(workloads.services), more)

    def _machines(
        self, state: status.Status, reached: Mapping[str, HostFacts], pods: tuple[Pod, ...] | None
    ) -> Iterator[report.Machine]:
        plan = self.cluster.inventory.addressing
        for node, row in zip(self.cluster.inventory.nodes, state.rows, strict=True):
            own = None if pods is None else [pod for pod in pods if pod.node == plan.node_host(node.index)]
            yield report.Machine(
                name=node.name,
                role=node.role,
                peer_ip=node.peer_ip,
                addresses=(plan.host6(node.index), plan.host4(node.index)),
                answers=node.name in reached,
                state=row,
                pods=None if own is None else len(own),
                bad_pods=None if own is None else sum(pod.bad for pod in own),
                usage=self.usage.get(node.name),
            )

    def _versions(self, state: status.Status, found: Facts[HostFacts]) -> Iterator[Version]:
        settings = self.cluster.inventory.cluster
        yield self._version("NixOS", settings.nixos, settings.nixos, "inventory.yaml")
        if found.api.version:
            yield self._version("Kubernetes", found.api.version, _minor(found.api.version), "API server")
        else:
            yield self._version("Kubernetes", settings.kubernetes, settings.kubernetes, "inventory.yaml")
        kubelets: dict[tuple[str, str], list[str]] = {}
        for each in state.rows:
            kubelets.setdefault((KUBELET, each.kubelet), []).append(each.node)
            kubelets.setdefault(("Linux", each.kernel), []).append(each.node)
        for (component, version), nodes in sorted(kubelets.items()):
            if version not in ("", "?"):
                until = _minor(version) if component == KUBELET and _minor(version) != _minor(found.api.version) else ""
                yield self._version(component, version, until, ", ".join(nodes))
        if state.etcd:
            yield Version("etcd", state.etcd.version, self.cluster.inventory.primary.name)
        lock = lockfile.inputs(self.cluster.workspace.read(self.cluster.workspace.flake_lock) or b"")
        for name, pinned in lock.items():
            yield Version(name, str(pinned), flake.LOCK_FILE)

    def _version(self, component: str, version: str, supported: str, where: str) -> Version:
        end = releases.END_OF_SUPPORT.get(supported)
        return Version(component, version, where, str(end or ""), (end - self.now.date()).days if end else None)

    def _credentials(self) -> Iterator[Credential]:
        inventory, workspace = self.cluster.inventory, self.cluster.workspace
        used, _ = kube_identities.in_use(inventory, self.connect)
        rows = self._try(lambda: identities.status(self.cluster, used, self.now), "inv keys.check") or []
        clients = {row.certificate: (row.clients, row.overlap) for row in rows}
        keys = read_keys(workspace)
        wanted = {each.file: ("certificate", each.common_name) for each in policy.certificates(inventory)}
        for file, (kind, user) in wanted.items():
            with suppress(SmallkubeError):  # keys.check tells what is wrong with it
                found = certificates.load(keys.certificates.get(file, b""), file)
                days = (self.now - found.not_valid_before_utc).days, (found.not_valid_after_utc - self.now).days
                uses, overlap = clients.get(file, ({}, False))
                yield Credential(file, kind, user, max(0, days[0] - 1), days[1], overlap, uses)
        for person in people.accepted(workspace):
            age = (self.now - datetime.fromisoformat(person.added)).days
            yield Credential(person.certificate, "person", person.name, age, (person.ends - self.now).days, False, {})
        in_use, _ = token_clients.in_use(inventory, self.connect)
        for row in self._try(lambda: tokens.status(self.cluster, in_use, self.now), "inv keys.check") or []:
            yield Credential(row.secret, "token", row.user, row.days, None, row.overlap, row.clients)

    def _backups(self) -> Iterator[report.Backup]:
        there = catalog.of(self.cluster)
        kept = retention.kept(there.records, self.cluster.inventory.cluster.backup.keep, self.now)
        drilled = self._try(lambda: drills.read(self.cluster.workspace), "") or {}
        for one in reversed(there.records):
            sizes, why = (one.revision, one.size, one.stored_size), kept.get(one.name, ())
            fault = one.problem or ("" if one.verified else "was never verified")
            note, drill = "" if fault else one.state, drilled.get(one.name)
            yield report.Backup(one.name, one.created, *sizes, one.verified, fault, note, why, drill)
        self.faults += [
            Finding(PROBLEM, name, fault, "inv etcd.prune --unsound") for name, fault in there.faults.items()
        ]

    def _of_status(self, state: status.Status, found: Facts[HostFacts]) -> Iterator[Finding]:
        names, primary = [*found.machines], self.cluster.inventory.primary.name
        silent = {name: each for name, each in found.machines.items() if isinstance(each, SmallkubeError)}
        yield from (report.unanswered(name, each.message, each.hint) for name, each in silent.items())
        covered = {f"{name}: {each.message}" for name, each in silent.items()}
        for severity, lines in ((PROBLEM, state.problems), (WARNING, state.warnings)):
            yield from (report.finding(severity, line, names, primary) for line in lines if line not in covered)

    def _of_keys(self) -> Iterator[Finding]:
        checked = self._try(lambda: audit.check(self.cluster), "inv keys.check")
        for each in checked.problems if checked else ():
            yield Finding(PROBLEM, f"keys/{each.file}", each.fault, each.fix)


def _minor(version: str) -> str:
    """ "1.34" of "v1.34.2"."""
    return ".".join(version.removeprefix("v").split(".")[:2])


def _by_urgency(each: Credential) -> tuple[bool, int, str]:
    return each.days_left is None, -each.age_days if each.days_left is None else each.days_left, each.name


def _deploys(reached: Mapping[str, HostFacts]) -> list[report.Deploy]:
    """The newest of all nodes, newest first."""
    entries = [report.Deploy(name, each) for name, found in reached.items() for each in history.parse(found.history)]
    return sorted(entries, key=lambda each: each.entry.time, reverse=True)[:MAX_DEPLOYS]
