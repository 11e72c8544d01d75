"""An operator at a lab: the real `inv` in processes of its own, faults put into the machines' own configuration."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.cluster import Lab
from smallkube.core.polling import rest
from smallkube.core.workspace import REPOSITORY, Workspace
from smallkube.inventory.load import load
from smallkube.inventory.models import Node
from tests import forked

Completed = subprocess.CompletedProcess[str]


def await_(what: str, condition: Callable[[], Any], seconds: float = 60) -> Any:
    """The first true value of ``condition``."""
    began = time.monotonic()
    deadline = began + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(rest(0.05, time.monotonic() - began))
        began = time.monotonic()
    return value


@dataclass(frozen=True)
class Operator:
    """Who deploys to ``lab`` from the workspace ``root``.

    ``within`` is put before each of his commands, which end within ``seconds``: a rotation of all certificates takes
    two minutes of two cores that other tests leave alone.
    """

    lab: Lab
    root: Path
    within: tuple[str, ...] = ()
    seconds: float = 600

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root)

    def node(self, name: str) -> Node:
        return load(self.workspace.inventory_file).node(name)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SMALLKUBE_WORKSPACE": str(self.root)}

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start one task; it gets signals of its own."""
        argv = [*self.within, sys.executable, "-m", "invoke", "--search-root", str(REPOSITORY), *words]
        return subprocess.Popen(
            argv,
            env=self.environment,
            cwd="/",
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen[str], seconds: float | None = None) -> Completed:
        """Wait for a task that was started."""
        try:
            out, err = process.communicate(timeout=seconds or self.seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            raise
        return Completed(process.args, process.returncode, out, err)

    def inv(self, *words: str) -> Completed:
        """Run one task to its end."""
        if self.within:
            done = self.end(self.start(*words))
        else:
            done = forked.inv(*words, environment=self.environment, seconds=self.seconds)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def done(self, *words: str) -> str:
        """Run one task that must succeed; its standard output."""
        done = self.inv(*words)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def deploy(self, *words: str, status: int = 0) -> dict[str, dict[str, Any]]:
        """`inv deploy --json`, which must end with this status; the report of each node."""
        return self.reports(self.inv("deploy", "--json", *words), status)

    def reports(self, done: Completed, status: int = 0) -> dict[str, dict[str, Any]]:
        assert done.returncode == status, done.stderr + done.stdout
        return {report["node"]: report for report in json.loads(done.stdout)}

    def outcomes(self, *words: str, status: int = 0) -> dict[str, str]:
        return {node: report["outcome"] for node, report in self.deploy(*words, status=status).items()}

    @contextmanager
    def extra(self, node: str, nix: str) -> Iterator[None]:
        """``nix`` (attributes of a module) beside what ``node``'s own configuration says."""
        file = self.workspace.hosts_dir / f"{node}.nix"
        before = file.read_text()
        file.write_text(before.rstrip().removesuffix("}") + nix + "\n}\n")
        try:
            yield
        finally:
            file.write_text(before)

    def marked(self, node: str, mark: str) -> Any:
        """A change of ``node`` that breaks nothing and shows in /etc/mark."""
        return self.extra(node, f'environment.etc."mark".text = "{mark}";')

    def say(self, node: str, *command: str) -> str:
        """What a command on the machine prints (without SSH)."""
        return self.lab.machine(node).check(*command).strip()

    def mark(self, node: str) -> str:
        return self.say(node, "sh", "-c", "cat /etc/mark 2>/dev/null || true")

    def runs(self, node: str) -> str:
        """Store path of the running system."""
        return self.say(node, "readlink", "-f", "/run/current-system")

    def boots(self, node: str) -> str:
        """Store path of the system that boots next."""
        return self.say(node, "readlink", "-f", "/nix/var/nix/profiles/system")

    def restart(self, node: str) -> None:
        """Cut the machine's power and start it again."""
        machine = self.lab.machine(node)
        machine.kill()
        machine.start(self.lab.start_layers())

    def leftovers(self, node: str) -> str:
        """Units and locks of deploys that are still there."""
        units = "systemctl list-units --plain --no-legend 'smallkube-*'"
        return self.say(node, "sh", "-c", f"{units}; ls -d /run/smallkube/lock 2>/dev/null; true")
