"""Whether clients find the API server by ``api.external_host``."""

import queue
import socket
import threading

SECONDS = 5.0
_RESERVED = ("example", "example.com", "example.net", "example.org", "invalid", "test")
"""Names that never are a real machine's (RFC 2606; RFC 6761, section 6)."""


def fault(host: str, port: int) -> str:
    """Why clients can't connect to it from here, "" if they can; takes up to SECONDS."""
    if any(f".{host}".endswith(f".{name}") for name in _RESERVED):
        return f"{host} is a placeholder"
    answers: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: answers.put(_connect(host, port)), daemon=True).start()
    try:
        reason = answers.get(timeout=SECONDS)  # the limit of a connection does not include DNS
    except queue.Empty:
        reason = "no answer"
    return reason and f"{host}:{port} is not reachable from here ({reason})"


def _connect(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
