"""Does a node's description hang together, and do the nodes' descriptions fit each other? Pure functions.

Each returns complaints as texts that name the unit, file or address. What the real tools know better (keys, syntax) is
left to them (smallkube/nix/check.py).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import TypeVar

from lab.checks.evaluate import Description
from lab.checks.systemd_text import Section, section, sections

ORDER = ("After", "Before")
PULL = ("Wants", "Requires", "BindsTo", "Requisite", "PartOf", "Upholds", "OnFailure", "OnSuccess", "Conflicts")
SECRETS_FOLDER = "/run/agenix/"

_TARGETS = (
    "basic|default|emergency|getty|graphical|halt|kexec|local-fs|local-fs-pre|machines|multi-user|network|network-online"
    "|network-pre|nss-lookup|nss-user-lookup|paths|poweroff|reboot|remote-fs|remote-fs-pre|rescue|shutdown|sleep|slices"
    "|sockets|swap|sysinit|time-set|time-sync|timers|umount"  # systemd.special(7)
)
_PRESENT_ON_NIXOS = re.compile(
    rf"({_TARGETS})\.target|\S+\.(slice|mount|automount|swap|device)"
    r"|(systemd-[a-z0-9@-]+|dbus|sshd|nix-daemon|nscd|suid-sgid-wrappers)\.(service|socket)"
    r"|agenix-install-secrets\.service"  # only where users are made by systemd-sysusers or userborn
)

Network = IPv4Network | IPv6Network
Owner = TypeVar("Owner", int, str)


def node_complaints(description: Description) -> tuple[str, ...]:
    """Everything that is wrong within one node."""
    return (
        *missing_units(description),
        *missing_accounts(description),
        *missing_secrets(description),
        *ordering_cycles(description),
        *tunnel_complaints(description),
    )


def missing_units(description: Description) -> Iterator[str]:
    """Units that another one names but that this node does not have: the order or the pull would be lost silently."""
    units = description["units"]
    aliases = {alias for unit in units.values() for alias in unit["aliases"]}
    for name, unit in sorted(units.items()):
        named = section(unit["text"], "Unit").words(*ORDER, *PULL)
        for other in sorted(set(named + unit["wantedBy"] + unit["requiredBy"])):
            if other not in units and other not in aliases and not _PRESENT_ON_NIXOS.fullmatch(other):
                yield f"{name} names {other}, which this node does not have"


def missing_accounts(description: Description) -> Iterator[str]:
    """Users and groups that units, secrets, files or other accounts name but that nothing creates."""
    users = {*description["users"], *description["baseUsers"], "0"}
    groups = {*description["groups"], *description["baseGroups"], "0", ""}
    for name, unit in sorted(description["units"].items()):
        service = section(unit["text"], "Service")
        dynamic = service.last("DynamicUser") in ("true", "yes")
        if not dynamic and service.last("User", "root") not in users:
            yield f"{name} runs as {service.last('User')}, which is no user"
        wanted = service.words("SupplementaryGroups") + ([] if dynamic else [service.last("Group")])
        yield from (f"{name} runs in {group}, which is no group" for group in wanted if group not in groups)
    for name, secret in sorted(description["secrets"].items()):
        if secret["owner"] not in users:
            yield f"the secret {name} belongs to {secret['owner']}, which is no user"
        if secret["group"] not in groups:
            yield f"the secret {name} belongs to {secret['group']}, which is no group"
    for name, user in sorted(description["users"].items()):
        for group in (user["group"], *user["extraGroups"]):
            if group not in groups:
                yield f"the user {name} is in {group}, which is no group"
    for name, file in sorted(description["etc"].items()):
        if not _known(file["user"], users) or not _known(file["group"], groups):
            yield f"/etc/{name} belongs to {file['user']}:{file['group']}, which does not exist"


def _known(name: str, names: set[str]) -> bool:
    return name.lstrip("+").isdigit() or name in names


def missing_secrets(description: Description) -> Iterator[str]:
    """Files under /run/agenix that something reads but that agenix does not put there."""
    known = {secret["path"] for secret in description["secrets"].values()}
    texts = {name: unit["text"] for name, unit in description["units"].items()}
    texts |= description["networkd"] | description["scripts"]
    texts |= {f"/etc/{name}": file["text"] or "" for name, file in description["etc"].items()}
    texts |= {f"activation script {script['name']}": script["text"] for script in description["activationScripts"]}
    for name, text in sorted(texts.items()):
        for path in sorted(set(re.findall(SECRETS_FOLDER + r"[A-Za-z0-9._@-]+", text)) - known):
            yield f"{name} reads {path}, which is no secret of this node"


def ordering_cycles(description: Description) -> Iterator[str]:
    """Circles in After=/Before=: systemd would drop one of the units' start jobs."""
    after: dict[str, set[str]] = {name: set() for name in description["units"]}
    for name, unit in description["units"].items():
        own = section(unit["text"], "Unit")
        after[name].update(own.words("After"))
        for later in own.words("Before"):
            after.setdefault(later, set()).add(name)
    circle = _circle(after)
    if circle:
        yield f"units are ordered in a circle: {' after '.join(circle)}"


def _circle(after: Mapping[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for other in sorted(after.get(name, ())):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return None

    return next((found for name in sorted(after) if (found := visit(name, []))), None)


def tunnel_complaints(description: Description) -> Iterator[str]:
    """AllowedIPs and routes must say the same, and no two peers (nor this node) may own the same address."""
    peers = _peers(description)
    allowed = [(number, network) for number, peer in enumerate(peers, 1) for network in _networks(peer, "AllowedIPs")]
    routed = _routes(description)
    for network in _sorted({network for _, network in allowed} ^ set(routed)):
        where = "AllowedIPs of a peer but has no route" if network not in map(str, routed) else "a route but no peer's"
        yield f"wgkube: {network} is {where}"
    own = [(0, network) for network in bridge_networks(description)]
    yield from (f"wgkube: {outer} and {inner} overlap" for _, outer, _, inner in _overlaps(own + allowed))
    sources = {address for route in _route_sections(description) for address in route.words("PreferredSource")}
    addresses = {str(ip_interface(word).ip) for word in _addresses(description)}
    for source in sorted(sources - addresses):
        yield f"wgkube: the preferred source {source} is no address of this node"


def fleet_complaints(descriptions: Mapping[str, Description]) -> tuple[str, ...]:
    """What does not fit between nodes; ``descriptions`` are those of all nodes of the cluster."""
    complaints: list[str] = []
    subnets = {name: frozenset(bridge_networks(entry)) for name, entry in descriptions.items()}
    ports = {name: _listen_port(entry) for name, entry in descriptions.items()}
    owned = [(name, network) for name, networks in subnets.items() for network in networks]
    for one, outer, two, inner in _overlaps(owned):
        complaints.append(f"{one} and {two}: their containers' networks overlap: {outer} and {inner}")
    for name, description in sorted(descriptions.items()):
        peers = _peers(description)
        if len(peers) != len(descriptions) - 1:
            complaints.append(f"{name}: {len(peers)} peers for {len(descriptions) - 1} other nodes")
        reached = {network for peer in peers for network in _networks(peer, "AllowedIPs")}
        others = {network for other, networks in subnets.items() if other != name for network in networks}
        complaints += [f"{name}: its tunnel does not lead to {network}" for network in _sorted(others - reached)]
        complaints += [
            f"{name}: its tunnel leads to {network}, where no node is" for network in _sorted(reached - others)
        ]
        listening = {port for other, port in ports.items() if other != name}
        called = {peer.last("Endpoint").rpartition(":")[2] for peer in peers}
        if called - listening:
            deaf = ", ".join(sorted(called - listening))
            complaints.append(f"{name}: calls peers on port {deaf}, where nothing listens")
    return tuple(complaints)


def _overlaps(owned: Iterable[tuple[Owner, Network]]) -> Iterator[tuple[Owner, Network, Owner, Network]]:
    """Pairs of networks of different owners that share addresses; of two networks one then contains the other."""
    around: list[tuple[Owner, Network]] = []
    for owner, network in sorted(owned, key=lambda entry: (_place(entry[1]), entry[0])):
        while around and not _contains(around[-1][1], network):
            around.pop()
        yield from ((other, outer, owner, network) for other, outer in around if other != owner)
        around.append((owner, network))


def _place(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _contains(outer: Network, inner: Network) -> bool:
    return outer.version == inner.version and int(inner.network_address) <= int(outer.broadcast_address)


def _sorted(networks: set[Network]) -> list[str]:
    return sorted(map(str, networks))


def bridge_networks(description: Description) -> list[Network]:
    """The containers' networks of a node: those of the addresses on brkube, but for what is local to the link."""
    found = [ip_interface(word) for word in _addresses(description, "brkube")]
    return [address.network for address in found if not address.is_link_local]


def _files(description: Description, interface: str, kind: str) -> list[str]:
    return [text for name, text in sorted(description["networkd"].items()) if name.endswith(f"-{interface}.{kind}")]


def _sections(description: Description, interface: str, kind: str, name: str) -> list[Section]:
    return [entry for text in _files(description, interface, kind) for entry in sections(text) if entry.name == name]


def _peers(description: Description) -> list[Section]:
    return _sections(description, "wgkube", "netdev", "WireGuardPeer")


def _listen_port(description: Description) -> str:
    return next((entry.last("ListenPort") for entry in _sections(description, "wgkube", "netdev", "WireGuard")), "")


def _route_sections(description: Description) -> list[Section]:
    return _sections(description, "wgkube", "network", "Route")


def _routes(description: Description) -> list[Network]:
    return [network for route in _route_sections(description) for network in _networks(route, "Destination")]


def _addresses(description: Description, *interfaces: str) -> list[str]:
    found: list[str] = []
    for interface in interfaces or ("brkube", "wgkube"):
        for name in ("Network", "Address"):
            for entry in _sections(description, interface, "network", name):
                found += entry.words("Address")
    return found


def _networks(entry: Section, key: str) -> list[Network]:
    return [ip_network(word) for value in entry.words(key) for word in value.split(",") if word]
