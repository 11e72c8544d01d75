"""A cluster that exists only in memory, and takes up what the real keys/ of a workspace say when it is deployed to."""

import base64
import copy
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from lab.workspace import flake_lock, stand_ins
from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import Workspace
from smallkube.deploy.plan import DEFAULT, Goal, Options, Report
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.inventory.models import Inventory, Node
from smallkube.kube import identities as kube_identities
from smallkube.kube import token_clients
from smallkube.operations import encryption, issuer
from smallkube.operations.engine import Operation, execute
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.fleet import NodeOutcome
from smallkube.remote.host import Command, Result
from smallkube.secrets import age, generate, peers, policy, transaction
from smallkube.secrets.age import require_master
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.transaction import Keys, changing_keys, read_keys

HOSTS = {
    "node1": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKuln964CDvuGUSVZqHhUY1et7pPXWWNyKqTze0Zd9Rr",
    "node2": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFjg0kLwIy6BBWg6t5Jn9BA4BzzA3oDQfUWr4FZiaNxV",
    "node3": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJTtKUVFb7XEWy9oUUN2Ey7jstsPfk9S687FUZcyXKtg",
}
"""Public host keys that nobody has the private half of."""


VERSIONS = {"kubernetes": "", "kubernetes_nixpkgs": None}
"""What differs on the way of an upgrade."""


def lock_of(cluster: Cluster) -> bytes:
    """nix/flake.lock that pins all that the rendered flake.nix names."""
    settings = cluster.inventory.cluster
    return flake_lock(settings, dict.fromkeys(stand_ins(settings), "sha256-a")).encode()


def generate_keys(workspace: Workspace) -> None:
    """All that keys/ of a workspace with two or three nodes needs."""
    workspace.hosts_keys_dir.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(workspace, load(workspace.inventory_file))
    for node in cluster.inventory.nodes:
        (workspace.hosts_keys_dir / f"{node.name}.pub").write_text(f"{HOSTS[node.name]}\n")
    with changing_keys(workspace):
        generate.act(cluster, generate.plan(cluster))


class Killed(BaseException):
    """The process is gone."""


@dataclass(frozen=True)
class Moment:
    """The files of a workspace, and what its machines hold."""

    files: Mapping[Path, bytes]
    memory: Mapping[str, object]


class FakeCluster:
    """``accepted`` are the tokens that the API server was started with; ``used`` is each user's own.

    ``pinned`` are the client certificates that it accepts, ``services`` what each service of a node shows;
    ``refusals`` are those that were tried and refused.
    ``configuration`` is what it encrypts with; ``objects`` says with which key each object in etcd is encrypted.
    ``issuers`` are ids of the keys whose tokens it accepts, the signing one first; ``pod_tokens`` has the one of each
    node's pods, ``secrets`` those of Secrets. ``members`` are the cluster's nodes by name: the version that each runs;
    ``deployments`` says who was deployed to, in order; ``peers`` are the WireGuard keys that a machine accepts.
    ``etcd`` is what seed.sh finds, ``host_key`` that of the primary, ``restarted`` are the nodes whose clients were.
    ``off``: the machines that can't be reached, which a deploy in lockstep does not survive; ``cordoned``: nodes.
    ``down``: nodes that are not Ready; ``stuck``: why a drain fails. ``admits``: a Node object may be deleted although
    its kubelet could make it anew. ``api``: the state of the API server's unit. Only an upgrade may change the members'
    minor version.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._loaded: tuple[str, Inventory] | None = None
        self.accepted: set[bytes] = set()
        self.used: dict[str, bytes] = {}
        self.answers: list[tuple[bytes, bool]] = []
        self.pinned: set[bytes] = set()
        self.services: dict[str, dict[str, bytes]] = {}
        self.refusals: list[bytes] = []
        self.shown: dict[str, dict[str, bytes]] = {}
        self.trusted: dict[str, dict[str, set[bytes]]] = {}
        self.peers: dict[str, set[str]] = {}
        self.deployments: list[list[str]] = []
        self.members = {node.name: "v1.34.2" for node in self.inventory.nodes}
        self.exposed, self.off, self.cordoned = "db", set[str](), set[str]()
        self.api, self.stuck, self.admits, self.down = "active", "", False, set[str]()
        self.drained: list[str] = []
        self.etcd, self.host_key, self.restarted = "new", HOSTS["node1"], list[str]()
        self.deploy()
        self.pod_tokens = {node.name: self.issuers[0] for node in self.inventory.nodes}
        self.secrets: dict[str, str] = {}
        self.without_service: set[str] = set()
        self.objects = {f"object{number}": self.configuration.keys[0][0] for number in range(3)}

    def moment(self) -> Moment:
        """Everything as it is now."""
        memory = {name: value for name, value in vars(self).items() if name not in ("workspace", "_loaded", "master")}
        return Moment(self._files(), copy.deepcopy(memory))

    def go_back(self, moment: Moment) -> None:
        """Make everything as it was then."""
        files = self._files()
        for path in files.keys() - moment.files.keys():
            path.unlink()
        for path, data in moment.files.items():
            if files.get(path) != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        vars(self).update(copy.deepcopy(dict(moment.memory)))

    def _files(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.workspace.root.rglob("*") if path.is_file()}

    @property
    def inventory(self) -> Inventory:
        """As the file is now, which is read again only when it has changed."""
        text = self.workspace.inventory_file.read_text()
        if not self._loaded or self._loaded[0] != text:
            self._loaded = text, load(self.workspace.inventory_file)
        return self._loaded[1]

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.workspace, self.inventory)

    @cached_property
    def master(self) -> age.Master:
        return require_master(self.workspace, "to test")

    @property
    def keys(self) -> Keys:
        return read_keys(self.workspace)

    def deploy(
        self,
        nodes: Sequence[Node] | None = None,
        cluster: Cluster | None = None,
        options: Options = DEFAULT,
        goal: Goal = Goal.SWITCH,
    ) -> list[Report]:
        wanted = (cluster or self.cluster).inventory.cluster.kubernetes
        settings = (cluster or self.cluster).inventory.cluster
        assert settings.model_copy(update=VERSIONS) == self.inventory.cluster.model_copy(update=VERSIONS)
        if goal is Goal.BUILD:
            return [Report(node.name, NodeOutcome.BUILT, system="/nix/store/system") for node in nodes or ()]
        if off := self.off & {node.name for node in (self.inventory.nodes if nodes is None else nodes)}:
            raise SmallkubeError(f"not everything was deployed: {', '.join(off)} failed")
        self._take_up(nodes)
        deployed = [node.name for node in (self.inventory.nodes if nodes is None else nodes)]
        self.deployments.append(deployed)
        for name in deployed:
            minor = f"v{wanted}."
            assert options.upgrade or self.members.get(name, minor).startswith(minor)
            self.members[name] = f"v{wanted}.0"
            self.peers[name] = {*peers.public_keys(peers.read(self.workspace)).values()}
        return [Report(name, NodeOutcome.DEPLOYED) for name in deployed]

    def _take_up(self, nodes: Sequence[Node] | None) -> None:
        keys = self.keys
        if nodes is None or self.inventory.primary in nodes:
            (secret, *_) = self._versions(Kind.ENCRYPTION, keys)
            self.issuers = [
                issuer.key_id(transaction.opened(keys, self.master, row), row.file)
                for row in self._versions(Kind.SIGNING_KEY, keys)
            ]
            self.configuration = encryption.parse(transaction.opened(keys, self.master, secret))
            self.accepted = {
                transaction.opened(keys, self.master, row)
                for row in policy.expected(self.inventory, keys.files)
                if row.kind is Kind.TOKEN and row.in_use and row.file in keys.files
            }
        self._take_up_identities(nodes, keys)
        names = {node.name for node in (self.inventory.nodes if nodes is None else nodes)}
        for user, row in policy.tokens(self.inventory).items():
            if row.node in names:
                self.used[user] = transaction.opened(keys, self.master, row)

    def _take_up_identities(self, nodes: Sequence[Node] | None, keys: Keys) -> None:
        found, deployed = keys.certificates, self.inventory.nodes if nodes is None else nodes
        if self.inventory.primary in deployed:
            self._replace(kube_identities.document(self.cluster))
        for row in policy.identities(self.inventory):
            if row.node in {node.name for node in deployed} and row.certificate:
                used = dict.fromkeys(row.units, found[row.certificate.file])
                self.services.setdefault(row.node, {}).update(used)

    def _versions(self, kind: Kind, keys: Keys) -> list[Secret]:
        """The current secret of this kind, and those that are accepted as well."""
        row = next(row for row in policy.secrets_of(self.inventory) if row.kind is kind)
        return [row, *(other for other in row.staged if other.file in keys.files)]

    def deploy_certificates(self, nodes: Sequence[Node] | None = None) -> None:
        """Node after node; once all have been deployed to, each must trust the others at every moment."""
        keys = self.keys
        certificates = keys.certificates
        rows = [row.certificate for row in policy.secrets_of(self.inventory) if row.certificate]
        for node in self.inventory.nodes:
            self._take_up_identities([node], keys)
            assert all(self.pinned >= {*shown.values()} for shown in self.services.values())
            self.shown[node.name] = {row.file: certificates[row.file] for row in rows}
            self.trusted[node.name] = {
                row.file: {certificates[file] for file in row.trusted_files if file in certificates} for row in rows
            }
            if len(self.shown) == len(self.inventory.nodes):
                assert [
                    name for each in self.inventory.nodes for name in self._mismatched_certificates(each.name)
                ] == []

    def connect(self, node: Node) -> FakeHost:
        if node.name in self.off:
            raise SmallkubeError("can't be reached")
        return FakeHost(node, lambda command: self._answer(node, command))

    def _answer(self, node: Node, command: Command) -> Result:
        match command.name:
            case "try tokens":
                assert node.role == "primary"
                return reply("".join(self._try(line) for line in (command.stdin or b"").splitlines()))
            case "tokens in use":
                users = {client.name: user for client, user in token_clients.clients_on(self.inventory, node).items()}
                used = ((name, self.used[users[name]]) for name in command.argv[4::2])
                return reply("".join(f"{name} {token_clients.sha256(token)}\n" for name, token in used))
            case "authorities":
                return reply("0" if (command.stdin or b"") in self.trusted[node.name]["apiserver.crt"] else "1")
            case "curl" if "--insecure" in command.argv:
                return reply(status=28 if node.name in self.without_service else 0)
            case "curl":
                rows = ((row.node, row.certificate) for row in policy.secrets_of(self.inventory) if row.certificate)
                at, wanted = next(pair for pair in rows if pair[1].shown_at == command.argv[-1])
                shown = self.shown[at][wanted.file]
                return reply("401") if command.stdin == shown else reply(status=60, stderr="curl: (60) another\n")
            case "kubectl" | "timeout":
                assert node.role == "primary"
                words = [word for word in command.argv if not word.startswith("--")]
                return self._kubectl(words, as_json="--output=json" in command.argv)
            case "signed" if command.argv[4] == "secrets":
                return reply(json.dumps({name: head_of(kid) for name, kid in self.secrets.items()}))
            case "signed":
                return reply(json.dumps([head_of(self.pod_tokens[node.name])]))
            case "rewrite":
                self.read_all()
                self.objects = dict.fromkeys(self.objects, self.configuration.keys[0][0])
                return reply(str(len(self.objects)))
            case "stored":
                return reply(json.dumps(Counter(self.objects.values())))
        return self._machine(node, command)

    def _machine(self, node: Node, command: Command) -> Result:
        match command.name:
            case "restart the kubelet":
                self.pod_tokens[node.name] = self.issuers[0]
                return reply()
            case "remove a peer":
                self.peers[node.name].discard(command.argv[4])
                return reply()
            case "replace identities":
                self._replace((command.stdin or b"").decode())
                return reply()
            case "read the accepted certificates":
                return reply("".join(f"# FILE USER\n{pem.decode()}" for pem in self.pinned))
            case "record" | "publish identities" | "end connections":
                return reply()
            case "try certificate":
                pem = (command.stdin or b"").partition(b"-----BEGIN EC")[0]
                self.refusals += [pem] if pem not in self.pinned else []
                return reply("accepted" if pem in self.pinned else "refused")
            case "identities in use":
                shown = self.services[node.name].items()
                return reply("".join(f"{unit} {kube_identities.sha256(pem)}\n" for unit, pem in shown))
            case "wg":
                return reply("\n".join(self.peers[node.name]))
            case "systemctl":
                self.restarted += [node.name] if "try-restart" in command.argv else []
                return reply(self.api)
            case "seed":
                assert (self.workspace.hosts_keys_dir / f"{node.name}.pub").read_text().split()[1] in self.host_key
                if command.argv[4] == "seed":
                    assert self.etcd == "new", "data is never replaced"
                    assert command.argv[8] == "/nix/store/system"
                    self.etcd = f"seeded {command.argv[7]}"
                return reply(f"{self.etcd}\n")
        raise AssertionError(command)

    def _replace(self, document: str) -> None:
        """What kube-identities does, which tests/integration/test_identities.py runs."""
        text, _, count = document.rstrip("\n").rpartition("# end ")
        leaves = re.split(r"(?m)^# identity .*\n", text)[1:]
        assert len(leaves) == int(count) > 0
        self.pinned = {leaf.encode() for leaf in leaves}

    def _kubectl(self, words: list[str], *, as_json: bool) -> Result:
        match words:
            case [*_, "get", "/openid/v1/jwks"]:
                return reply(json.dumps({"keys": [{"kid": kid} for kid in self.issuers]}))
            case [*_, "get", path] if path.endswith("/proxy/healthz"):
                asked = path.split("/")[4].partition(".")[0]
                return (
                    reply("ok") if not self._mismatched_certificates(asked) else reply(status=1, stderr="not trusted")
                )
            case [*_, "get", "/version"]:
                return reply(json.dumps({"gitVersion": self.members[self.inventory.primary.name]}))
            case [*_, "get", "/readyz?verbose"]:
                return reply()
            case [*_, "get", "nodes" | "leases" as kind]:
                return reply(json.dumps({"items": [self._object(kind, name) for name in self.members]}))
            case [*_, "get", "pods"]:
                spec = {"volumes": [{"secret": {"secretName": self.exposed}}]}
                return reply(json.dumps({"items": [{"metadata": {"namespace": "default"}, "spec": spec}]}))
            case [*_, "get", "node", host]:
                name = host.partition(".")[0]
                if name not in self.members:
                    return reply()
                return reply(json.dumps(self._object("nodes", name)) if as_json else f"node/{name}\n")
            case [*_, "delete", "node", host]:
                name = host.partition(".")[0]
                if not self.admits:
                    assert self.used.get(name) not in self.accepted, "its kubelet would make its Node object anew"
                    assert self.pinned.isdisjoint(self.services[name].values()), "the same"
                self.members.pop(name, None)
                return reply()
            case [*_, "delete", "pods"]:
                return reply()
            case [*_, "drain", host]:
                self.cordoned.add(name := host.partition(".")[0])
                self.drained.append(name)
                return reply(status=1, stderr=self.stuck) if self.stuck else reply()
        raise AssertionError(words)

    def _object(self, kind: str, name: str) -> dict[str, object]:
        metadata = {"name": self.inventory.addressing.node_host(int(name.removeprefix("node")))}
        if kind == "leases":
            return {"metadata": metadata, "spec": {"renewTime": datetime.now(UTC).isoformat()}}
        ready = [{"type": "Ready", "status": str(name not in self.down)}]
        return {
            "metadata": metadata,
            "spec": {"unschedulable": name in self.cordoned},
            "status": {"conditions": ready, "nodeInfo": {"kubeletVersion": self.members[name]}},
        }

    def _mismatched_certificates(self, node: str) -> list[str]:
        """Who of ``node`` and the API server shows a certificate that the other does not trust."""
        file = f"kubelet_{node}.crt"
        pairs = {
            "apiserver.crt": (self.shown["node1"], self.trusted[node]),
            "kubelet-client.crt": (self.shown["node1"], self.trusted[node]),
            "front-proxy-client.crt": (self.shown["node1"], self.trusted["node1"]),
            file: (self.shown[node], self.trusted["node1"]),
        }
        return [name for name, (shown, trusted) in pairs.items() if shown[name] not in trusted[name]]

    def read_all(self) -> None:
        """What the API server can't decrypt is lost."""
        assert {*self.objects.values()} <= {name for name, _ in self.configuration.keys}

    def _try(self, line: bytes) -> str:
        number, _, token = line.partition(b" ")
        good = token in {each.strip() for each in self.accepted}
        self.answers.append((token, good))
        return f"{number.decode()} {'accepted' if good else 'refused'}\n"


def head_of(kid: str) -> str:
    """The first part of a token that the key of this id has signed."""
    return base64.urlsafe_b64encode(json.dumps({"alg": "RS256", "kid": kid}).encode()).decode().rstrip("=")


def run(operation: Operation, keys: Keys, kill_before: str | None = None) -> bool:
    """Run what remains; whether it came to its end, or was killed before the step of this title."""

    def on_step(title: str) -> None:
        if title == kill_before:
            raise Killed

    try:
        execute(operation, keys, on_step)
    except Killed:
        return False
    return True


def kills(cluster: FakeCluster, operation: Operation) -> Iterator[str | None]:
    """Run what remains, killed before each of its steps, and to its end: the step's title, or None.

    At each of them the cluster is as it was left; what comes before is run only once.
    """
    moments: list[tuple[str | None, Moment]] = []
    execute(operation, cluster.keys, lambda title: moments.append((title, cluster.moment())))
    for title, moment in [*moments, (None, cluster.moment())]:
        cluster.go_back(moment)
        yield title
