"""What the machines say of certificates: which pods trust one, and who shows those that are in keys/."""

from collections.abc import Mapping
from pathlib import Path

from smallkube.inventory.models import Inventory, Node
from smallkube.kube.members import KUBECTL
from smallkube.remote import fleet
from smallkube.remote.command import Command, Result
from smallkube.remote.host import Connect
from smallkube.secrets import policy

_SCRIPT = Path(__file__).with_name("scripts") / "authorities.sh"
_CURL = ("curl", "--silent", "--show-error", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}")


def pods_without(inventory: Inventory, connect: Connect, pem: bytes) -> list[str]:
    """Nodes that have pods whose ca.crt lacks the certificate ``pem``, with their number; or why one can't be asked."""

    def ask(node: Node) -> int:
        argv = ("/bin/sh", "-c", _SCRIPT.read_text(), "authorities")
        with connect(node) as machine:
            return len(machine.run_checked(Command(argv, stdin=pem, title="pods' authorities")).text.splitlines())

    outcomes = fleet.run([inventory.nodes], ask)
    waiting = [f"{one.value} pods on {one.node.name}" for one in outcomes if one.value]
    return waiting + [f"{one.node.name} ({one.error.message})" for one in outcomes if one.error]


def mismatched_certificates(inventory: Inventory, connect: Connect, certificates: Mapping[str, bytes]) -> list[str]:
    """Where other certificates than those in keys/ (file → PEM) are used, in words; none, when all fit.

    By the policy: every node asks each URL; the API server asks each path, of a kubelet, and both check the other.
    """
    shown = [each for each in policy.certificates(inventory) if each.shown_at]
    urls = {each.shown_at: certificates[each.file] for each in shown if not each.shown_at.startswith("/")}

    def ask(node: Node) -> list[str]:
        with connect(node) as machine:
            found = {
                url: machine.run(Command((*_CURL, "--cacert", "/dev/stdin", url), stdin=pem, timeout=30))
                for url, pem in urls.items()
            }
        return [f"{node.name} to {url}: {_curl_error(reply)}" for url, reply in found.items() if not reply.ok]

    outcomes = fleet.run([inventory.nodes], ask)
    wrong = [text for one in outcomes for text in one.value or ()]
    wrong += [f"{one.node.name} ({one.error.message})" for one in outcomes if one.error]
    if wrong:
        return wrong
    with connect(inventory.primary) as primary:
        for path in (each.shown_at for each in shown if each.shown_at not in urls):
            reply = primary.run(Command((*KUBECTL, "--request-timeout=10s", "get", "--raw", path), timeout=30))
            if not reply.ok:
                wrong.append(f"the API server to {path}: {reply.last_line}")
    return wrong


def _curl_error(reply: Result) -> str:
    return next((line for line in reply.stderr.splitlines() if line.startswith("curl: (")), reply.last_line)
