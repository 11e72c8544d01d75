"""All checks, in the order in which they are made: what each needs, what makes it, and where to look when it fails."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

from smallkube.core.errors import UsageError
from smallkube.smoke import control, pods, probes
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
    title: str
    needs: Needs
    work: Callable[[SmokeContext], str]
    hint: str = ""
    provides: Needs | None = None

    @property
    def group(self) -> str:
        return self.name.partition(".")[0]


def _by_pods(name: str, title: str, hint: str) -> SmokeCheck:
    return SmokeCheck(name, title, Needs.ANSWERS, partial(probes.by_pods, check=name), hint)


def _by_machines(name: str, title: str, hint: str) -> SmokeCheck:
    return SmokeCheck(name, title, Needs.PODS, partial(pods.from_machines, check=name), hint)


def _runs(name: str, title: str, component: str) -> SmokeCheck:
    hint = f"systemctl status {component} on the primary"
    return SmokeCheck(name, title, Needs.API, partial(control.runs, component=component), hint)


_ETCD = "systemctl status etcd and journalctl -u etcd on the primary"
_ALARMS = "compact, defragment, then etcdctl alarm disarm (etcd.io/docs/v3.6/op-guide/maintenance)"
_API = "systemctl status kube-apiserver and journalctl -u kube-apiserver on the primary"
_ANONYMOUS = "--anonymous-auth must be false (nix/modules/apiserver.nix)"
_OUTDATED = "inv deploy --node … brings them in line"
_LEASES = "is the kubelet running there, and the tunnel up (inv net.check)?"
_KUBELET = "is port 10250 of the kubelet open to the primary (firewall, tunnel)?"
_TUNNEL = "inv net.check shows the tunnel"
_PROXY = "systemctl status kube-proxy there"
_HAIRPIN = "kube-proxy there, and hairpinMode of the CNI configuration"
_API_SERVICE = "kube-proxy there, and the way to the primary's API port"
_NODEPORT = "systemctl status kube-proxy on the node that was asked"
_COREDNS = "systemctl status coredns there, and its rights (nix/addons/coredns.yaml)"
_EGRESS = "masquerading (nft list table ip6 kube-nat) and the machine's own way out"
_ENCRYPTION = "keys/EncryptionConfiguration.yaml.age is not what the API server uses, or has identity first"

PRIMARY, API, PODS, ANSWERS = Needs
CHECKS = (
    SmokeCheck("etcd.health", "etcd answers and has a leader", PRIMARY, control.etcd_health, _ETCD),
    SmokeCheck("etcd.alarms", "etcd has raised no alarm", PRIMARY, control.etcd_alarms, _ALARMS),
    SmokeCheck("api.ready", "the API server is ready in all its parts", PRIMARY, control.api_ready, _API),
    SmokeCheck("api.anonymous", "a request without a token gets 401", PRIMARY, control.api_anonymous, _ANONYMOUS),
    SmokeCheck("api.certificate", "the pinned certificate is shown", PRIMARY, control.api_certificate, "inv deploy"),
    SmokeCheck("nodes.inventory", "the nodes are those of the inventory", API, control.nodes_inventory),
    SmokeCheck("nodes.ready", "every node is Ready", API, control.nodes_ready, "journalctl -u kubelet there"),
    SmokeCheck("nodes.versions", "kubelets are within the allowed skew", API, control.nodes_versions, _OUTDATED),
    SmokeCheck("nodes.leases", "every kubelet renews its lease", API, control.nodes_leases, _LEASES),
    _runs("control.scheduler", "the scheduler runs", "kube-scheduler"),
    _runs("control.controllers", "the controller manager runs", "kube-controller-manager"),
    SmokeCheck("pods.rollout", "a pod starts on every node", API, pods.prepare, provides=PODS),
    SmokeCheck("kubelet.logs", "every kubelet serves logs", PODS, pods.logs, _KUBELET),
    SmokeCheck("kubelet.exec", "every kubelet runs commands", PODS, pods.execute, _KUBELET, provides=ANSWERS),
    _by_pods("network.ipv6", "every node's pod reaches every other, IPv6", _TUNNEL),
    _by_pods("network.ipv4", "every node's pod reaches every other, IPv4", _TUNNEL),
    _by_pods("network.service", "pods reach a Service's cluster IP", _PROXY),
    _by_pods("network.hairpin", "a pod reaches itself through its own Service", _HAIRPIN),
    _by_pods("network.api", "pods reach the API through its Service", _API_SERVICE),
    _by_machines("network.host", "every machine reaches a Service's cluster IP", _PROXY),
    _by_machines("network.nodeport", "every machine reaches a NodePort on every other", _NODEPORT),
    _by_pods("dns.services", "pods resolve Services", _COREDNS),
    _by_pods("dns.nodes", "pods resolve the nodes' names", "systemctl status coredns there"),
    _by_machines("dns.servers", "every node's CoreDNS answers", _COREDNS),
    _by_pods("egress.internet", "pods reach an address outside", _EGRESS),
    SmokeCheck("secrets.encrypted", "a new Secret is encrypted in etcd", PODS, pods.encrypted, _ENCRYPTION),
    SmokeCheck("cleanup.done", "all that was made is gone again", PRIMARY, pods.clean, "the next run tries again"),
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
