"""What checks there are, how each ended, and that as text for others. Pure."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from smallkube.core.errors import UsageError

Outcome = Literal["ok", "failed", "skipped", "not reached"]


@dataclass(frozen=True)
class Check:
    """One check: ``name`` is GROUP.WHAT."""

    name: str
    title: str

    @property
    def group(self) -> str:
        return self.name.partition(".")[0]


CHECKS = (
    Check("etcd.health", "etcd answers and has a leader"),
    Check("etcd.alarms", "etcd has raised no alarm"),
    Check("api.ready", "the API server is ready in all its parts"),
    Check("api.anonymous", "a request without a token is refused (401)"),
    Check("api.certificate", "the API server shows the pinned certificate"),
    Check("nodes.inventory", "the cluster's nodes are those of the inventory"),
    Check("nodes.ready", "every node is Ready"),
    Check("nodes.versions", "kubelets are within the skew that Kubernetes allows"),
    Check("nodes.leases", "every kubelet renews its lease"),
    Check("control.scheduler", "the scheduler runs"),
    Check("control.controllers", "the controller manager runs"),
    Check("pods.rollout", "a pod starts on every node"),
    Check("kubelet.logs", "the API server gets logs from every kubelet"),
    Check("kubelet.exec", "the API server runs commands through every kubelet"),
    Check("network.ipv6", "every node's pod reaches every other, IPv6"),
    Check("network.ipv4", "every node's pod reaches every other, IPv4"),
    Check("network.service", "pods reach a Service's cluster IP"),
    Check("network.hairpin", "a pod reaches itself through its own Service"),
    Check("network.api", "pods reach the API through its Service"),
    Check("network.host", "every machine reaches a Service's cluster IP"),
    Check("network.nodeport", "every machine reaches a NodePort on every other"),
    Check("dns.services", "pods resolve Services"),
    Check("dns.nodes", "pods resolve the nodes' names"),
    Check("dns.servers", "every node's CoreDNS answers"),
    Check("egress.internet", "pods reach an address outside"),
    Check("secrets.encrypted", "a new Secret is encrypted in etcd"),
    Check("cleanup.done", "all that was made is gone again"),
)
NAMES = tuple(check.name for check in CHECKS)
GROUPS = tuple(dict.fromkeys(check.group for check in CHECKS))


@dataclass(frozen=True)
class Result:
    """How one check ended; ``message`` says what was found or what to look at."""

    check: str
    outcome: Outcome
    seconds: float = 0.0
    message: str = ""


def select(only: Sequence[str], skip: Sequence[str]) -> tuple[str, ...]:
    """Names of the checks that are wanted; ``only`` and ``skip`` name checks or groups. Raises UsageError."""
    for word in (*only, *skip):
        if word not in (*NAMES, *GROUPS):
            hint = f"groups: {', '.join(GROUPS)}; checks: {', '.join(NAMES)}"
            raise UsageError(f"no check {word!r}", hint=hint)

    def named(check: Check, words: Collection[str]) -> bool:
        return check.name in words or check.group in words

    wanted = tuple(c.name for c in CHECKS if (not only or named(c, only)) and not named(c, skip))
    if not wanted:
        raise UsageError("no check is left", hint="give other words for --only and --skip")
    return wanted


def ordered(results: Iterable[Result]) -> tuple[Result, ...]:
    """In the order of the table."""
    return tuple(sorted(results, key=lambda result: NAMES.index(result.check)))


def junit(results: Sequence[Result], cluster: str) -> str:
    """The report in the XML that JUnit's readers agree on (github.com/testmoapp/junitxml)."""
    counts = {word: sum(result.outcome == word for result in results) for word in ("failed", "not reached", "skipped")}
    suite = ElementTree.Element(
        "testsuite",
        name=f"smallkube smoke test of {cluster}",
        tests=str(len(results)),
        failures=str(counts["failed"]),
        errors=str(counts["not reached"]),
        skipped=str(counts["skipped"]),
        time=f"{sum(result.seconds for result in results):.3f}",
    )
    for result in results:
        group, _, name = result.check.partition(".")
        case = ElementTree.SubElement(suite, "testcase", classname=group, name=name, time=f"{result.seconds:.3f}")
        tag = {"failed": "failure", "not reached": "error", "skipped": "skipped"}.get(result.outcome)
        if tag:
            ElementTree.SubElement(case, tag, message=_printable(result.message))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _printable(text: str) -> str:
    """XML 1.0 has no control characters."""
    return "".join(char for char in text if char.isprintable() or char in "\n\t")
