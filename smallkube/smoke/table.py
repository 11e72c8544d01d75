"""All checks, in the order in which they are made: what each needs, what makes it, and where to look when it fails."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

from smallkube.core.errors import UsageError
from smallkube.smoke import control, pods, probes, tokens
from smallkube.smoke.context import SmokeContext


class Needs(IntEnum):
    """What must be there for a check; each includes those before it. ANSWERS: of the pods, to what they tried."""

    PRIMARY = 0
    API = 1
    PODS = 2
    ANSWERS = 3


@dataclass(frozen=True)
class SmokeCheck:
    """``name`` is GROUP.WHAT. ``work`` returns what it found, or raises Failed, NotReached or Skipped.

    ``provides``: what other checks need of this one, which is therefore made even where it is not wanted itself.
    """

    name: str
    needs: Needs
    work: Callable[[SmokeContext], str]
    hint: str = ""
    provides: Needs | None = None

    @property
    def group(self) -> str:
        return self.name.partition(".")[0]


def _by_pods(name: str, hint: str) -> SmokeCheck:
    return SmokeCheck(name, Needs.ANSWERS, partial(probes.by_pods, check=name), hint)


def _by_machines(name: str, hint: str) -> SmokeCheck:
    return SmokeCheck(name, Needs.PODS, partial(pods.from_machines, check=name), hint)


def _runs(name: str, component: str) -> SmokeCheck:
    work = partial(control.runs, component=component)
    return SmokeCheck(name, Needs.API, work, f"systemctl status {component} on the primary")


_ETCD = "inv nodes.logs etcd --role primary"
_ALARMS = "compact, defragment, then etcdctl alarm disarm (etcd.io/docs/v3.6/op-guide/maintenance)"
_API = "inv nodes.logs kube-apiserver --role primary"
_ANONYMOUS = "--anonymous-auth must be false (nix/modules/apiserver.nix)"
_LEASES = "is the kubelet running there, and the tunnel up (inv net.check)?"
_ISSUER = "the API server refuses them: name their issuer in cluster.api.previous_issuers, or wait an hour for new ones"
_KUBELET = "is port 10250 of the kubelet open to the primary (firewall, tunnel)?"
_TUNNEL = "inv net.check shows the tunnel"
_HOSTNETWORK = "kube-proxy there; the table inet kube-guard there, and the rules that accept its mark on the other node"
_COREDNS = "systemctl status coredns there, and its rights (nix/addons/coredns.yaml)"
_ENCRYPTION = "keys/EncryptionConfiguration.yaml.age is not what the API server uses, or has identity first"

PRIMARY, API, PODS, ANSWERS = Needs
CHECKS = (
    SmokeCheck("etcd.health", PRIMARY, control.etcd_health, _ETCD),
    SmokeCheck("etcd.alarms", PRIMARY, control.etcd_alarms, _ALARMS),
    SmokeCheck("api.ready", PRIMARY, control.api_ready, _API),
    SmokeCheck("api.anonymous", PRIMARY, control.api_anonymous, _ANONYMOUS),
    SmokeCheck("api.certificate", PRIMARY, control.api_certificate, "inv deploy"),
    SmokeCheck("nodes.inventory", API, control.nodes_inventory),
    SmokeCheck("nodes.ready", API, control.nodes_ready, "inv nodes.logs kubelet"),
    SmokeCheck("nodes.versions", API, control.nodes_versions, "inv deploy --node … brings them in line"),
    SmokeCheck("nodes.leases", API, control.nodes_leases, _LEASES),
    _runs("control.scheduler", "kube-scheduler"),
    _runs("control.controllers", "kube-controller-manager"),
    SmokeCheck("tokens.issuer", API, tokens.of_pods, _ISSUER),
    SmokeCheck("pods.rollout", API, pods.prepare, provides=PODS),
    SmokeCheck("kubelet.logs", PODS, pods.logs, _KUBELET),
    SmokeCheck("kubelet.exec", PODS, pods.execute, _KUBELET, provides=ANSWERS),
    _by_pods("network.ipv6", _TUNNEL),
    _by_pods("network.ipv4", _TUNNEL),
    _by_pods("network.service", "systemctl status kube-proxy there"),
    _by_pods("network.hairpin", "kube-proxy there, and hairpinMode of the CNI configuration"),
    _by_pods("network.hostnetwork", _HOSTNETWORK),
    _by_pods("network.api", "kube-proxy there, and the way to the primary's API port"),
    _by_machines("network.host", "systemctl status kube-proxy there"),
    _by_machines("network.nodeport", "systemctl status kube-proxy on the node that was asked"),
    _by_pods("dns.services", _COREDNS),
    _by_pods("dns.nodes", "systemctl status coredns there"),
    _by_machines("dns.servers", _COREDNS),
    _by_machines("dns.names", "inv deploy renews the rules of CoreDNS for such names (nix/modules/coredns.nix)"),
    _by_pods("egress.internet", "masquerading (nft list table ip6 kube-nat) and the machine's own way out"),
    SmokeCheck("secrets.encrypted", PODS, pods.encrypted, _ENCRYPTION),
    SmokeCheck("cleanup.done", PRIMARY, pods.clean, "the next run tries again"),
)
NAMES = tuple(check.name for check in CHECKS)
GROUPS = tuple(dict.fromkeys(check.group for check in CHECKS))


def select(only: Sequence[str], skip: Sequence[str]) -> tuple[str, ...]:
    """Names of the checks that are wanted; ``only`` and ``skip`` name checks or groups. Raises UsageError."""
    for word in (*only, *skip):
        if word not in (*NAMES, *GROUPS):
            hint = f"groups: {', '.join(GROUPS)}; checks: {', '.join(NAMES)}"
            raise UsageError(f"no check {word!r}", hint=hint)

    def named(check: SmokeCheck, words: Collection[str]) -> bool:
        return check.name in words or check.group in words

    wanted = tuple(c.name for c in CHECKS if (not only or named(c, only)) and not named(c, skip))
    if not wanted:
        raise UsageError("no check is left", hint="give other words for --only and --skip")
    return wanted
