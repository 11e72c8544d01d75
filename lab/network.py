"""How a lab's machines reach each other and how the operator reaches them.

Each lab has a network namespace of its own with a bridge; the machines have 192.168.88.N on it, in every lab the same,
since nothing of it exists outside that namespace. The operator reaches machine N of lab K at 127.88.K.N port 2222: a
proxy on that loopback address hands connections to the machine's sshd. No address, route or interface of this machine
changes, and what is sent to a lab that is down is refused here and never leaves for a stranger's network.
"""

import socket
from collections.abc import Callable, Iterable
from typing import TypeVar

from smallkube.core.errors import SmallkubeError

SSH_PORT = 2222
BRIDGE = "br-lab"
BRIDGE_ADDRESS = "192.168.89.1/23"
PREFIX_LENGTH = 23
INTERFACE = "host0"
"""What systemd-nspawn calls the machine's end of its link."""


def peer_address(index: int) -> str:
    """Where the lab's machines reach machine ``index``."""
    return f"192.168.88.{index}"


def operator_address(lab: int, index: int) -> str:
    """Where the operator reaches machine ``index`` of the lab numbered ``lab``: always this very machine."""
    return f"127.88.{lab}.{index}"


def claim(number: int) -> socket.socket | None:
    """A socket that reserves this number for one lab of this machine; None when the number is in use.

    Its name is abstract (see unix(7)): the kernel gives it once in the network namespace where the addresses are,
    whatever the user and the folders, and frees it when the last process that holds the socket has ended.
    """
    claimed = socket.socket(socket.AF_UNIX)
    try:
        claimed.bind(f"\0smallkube-lab-{number}")
        # Machines of a crashed lab may still run, and hold its addresses.
        listener(number, 1).close()
    except (OSError, SmallkubeError):
        claimed.close()
        return None
    return claimed


Claim = TypeVar("Claim")


def claim_number(
    claim: Callable[[int], Claim | None], reserved: Iterable[int] = (), preferred: int = 0
) -> tuple[int, Claim]:
    """The first number (1 to 254) that ``claim`` gives and that is not ``reserved``, with what ``claim`` returned.

    ``preferred`` is tried first. Raises SmallkubeError when none is free.
    """
    used = set(reserved)
    for number in sorted(range(1, 255), key=lambda number: number != preferred):
        if number not in used and (claimed := claim(number)) is not None:
            return number, claimed
    hint = f"inv lab.down --all; or stop what listens on port {SSH_PORT} of all addresses"
    raise SmallkubeError("no number from 1 to 254 is free for another lab", hint=hint)


def network_file(index: int) -> str:
    """The systemd.network(5) file of machine ``index``: first in order, so that no other file takes the link."""
    return (
        f"[Match]\nName={INTERFACE}\n\n[Network]\nAddress={peer_address(index)}/{PREFIX_LENGTH}\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    )


def listener(lab: int, index: int) -> socket.socket:
    """A socket that listens where the operator reaches the machine.

    Raises SmallkubeError when another program has the address.
    """
    address = (operator_address(lab, index), SSH_PORT)
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise SmallkubeError(f"{address[0]} port {address[1]} can't be listened on: {error.strerror}") from error
    return listening


def ssh_answers(lab: int, index: int, seconds: float) -> bool:
    """Whether the machine's sshd greets the operator within ``seconds``."""
    try:
        with socket.create_connection((operator_address(lab, index), SSH_PORT), timeout=seconds) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
