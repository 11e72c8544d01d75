"""The lock that a deploy holds on a machine, where one that was not refreshed for 15 minutes is taken over."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial

from smallkube.core.errors import SmallkubeError
from smallkube.deploy.facts import SCRIPTS
from smallkube.deploy.history import operator
from smallkube.remote.host import Command, Host, Result

REFRESH_SECONDS = 240
_TAKE = partial(SCRIPTS.sent, "activation", "lock", title="lock")


class MachineLock:
    """Refreshed over new connections, whatever the deploy does or waits for meanwhile. ``connect`` makes one."""

    def __init__(self, connect: Callable[[], AbstractContextManager[Host]], nonce: str) -> None:
        self.connect, self.nonce = connect, nonce
        self.taken, self._ended = False, threading.Event()

    def take(self, host: Host, workspace: str, command: Callable[..., Command] = _TAKE) -> Result:
        """Take it by ``command``, which is made of owner, nonce and holder; what that printed.

        Raises SmallkubeError when the deploy of another ``workspace`` holds it.
        """
        taken = host.run(command(operator(), self.nonce, f"{operator()} {workspace}"))
        if not taken.ok:
            raise SmallkubeError(taken.last_line, hint="wait for that deploy to end")
        self.taken = True
        threading.Thread(target=self._keep, daemon=True).start()
        return taken

    def _keep(self) -> None:
        while not self._ended.wait(REFRESH_SECONDS):
            with suppress(Exception), self.connect() as host:  # whatever it was, the next one may succeed
                host.run(SCRIPTS.sent("activation", "refresh", self.nonce, title="refresh the lock"))

    def end(self) -> None:
        """Refresh it no more: it stays until it is taken over."""
        self._ended.set()

    def release(self, host: Callable[[], Host]) -> None:
        """Give it back; where that fails, the next deploy from this workspace takes it over at once."""
        self.end()
        if self.taken:
            with suppress(SmallkubeError):
                host().run(SCRIPTS.sent("activation", "unlock", self.nonce, title="unlock"))
