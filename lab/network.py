"""How a lab's machines reach each other and how the operator reaches them.

Each lab has a network namespace of its own with a bridge; the machines have 192.168.88.N on it, in every lab the same,
since nothing of it exists outside that namespace. The operator reaches machine N of lab K at 127.88.K.N port 2222: a
proxy on that loopback address hands connections to the machine's sshd. No address, route or interface of this machine
changes, and what is sent to a lab that is down is refused here and never leaves for a stranger's network.
"""

import socket
from collections.abc import Callable, Iterable

from smallkube.errors import SmallkubeError

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


def free_number(taken: Iterable[int], taken_elsewhere: Callable[[int], bool]) -> int:
    """The lowest number (1 to 254) that is neither ``taken`` nor used by somebody else's lab.

    Raises SmallkubeError when there are 254 labs.
    """
    used = set(taken)
    for number in range(1, 255):
        if number not in used and not taken_elsewhere(number):
            return number
    raise SmallkubeError("there are 254 labs already", hint="inv lab.down --all")


def in_use(number: int) -> bool:
    """Whether a lab with this number is up, whoever's it is (as far as its first machine shows)."""
    try:
        listener(number, 1).close()
    except SmallkubeError:
        return True
    return False


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
