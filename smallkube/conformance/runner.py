"""The test program of Kubernetes (e2e.test): asked what it has, and run until its last test or an interruption."""

import json
import os
import re
import signal
import subprocess  # its output is read while it runs
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from smallkube.conformance import catalogue
from smallkube.conformance.outcome import Outcome, Reader
from smallkube.core import process
from smallkube.core.errors import MALFORMED, SmallkubeError, UsageError, one_line, split_lines

GRACE_SECONDS = 120
"""How long tests that are interrupted may take to remove what they made."""
_LINE_BYTES = 1 << 16
_LOG_BYTES = 512 << 20
_LONGEST = "24h"
_TAINT = re.compile(r"[\w./-]{1,317}")

T = TypeVar("T")


@dataclass(frozen=True)
class Suite:
    """A test program and the cluster that it tests.

    ``domain``: the cluster's; ``prefix``: words before each command line that reaches the cluster.
    """

    program: Path
    kubeconfig: Path
    kubectl: Path
    domain: str
    processes: int
    prefix: tuple[str, ...] = ()

    @property
    def ginkgo(self) -> Path | None:
        """What runs the tests in several processes, as the releases of Kubernetes have it beside the program."""
        found = self.program.with_name("ginkgo")
        return found if os.access(found, os.X_OK) else None

    def version(self) -> str:
        """The program's version, such as v1.34.2."""
        found = split_lines(self._ask("--version").strip())
        if len(found) != 1 or len(found[0]) > 100:
            raise SmallkubeError("unexpected output from e2e.test --version", where=str(self.program))
        return one_line(found[0])

    def tests(self) -> tuple[str, ...]:
        """The names of the conformance tests."""
        return catalogue.parse(self._ask("--list-conformance-tests"))

    def every(self) -> tuple[str, ...]:
        """The names of all tests, those of conformance included."""
        return catalogue.parse_all(self._ask("--list-tests"))

    def _ask(self, flag: str) -> str:
        done = process.run([self.program, flag])
        if not done.ok:
            raise UsageError(f"{flag} failed: is it e2e.test of Kubernetes?", where=str(self.program))
        return done.stdout

    def facts(self) -> tuple[str, int, str]:
        """Version of the API server, number of nodes, their container runtime. Raises SmallkubeError."""

        def about_nodes(found: Any) -> tuple[int, str]:
            nodes = found["items"]
            return len(nodes), str(nodes[0]["status"]["nodeInfo"]["containerRuntimeVersion"])

        server = self._ask_api(lambda found: str(found["serverVersion"]["gitVersion"]), "version")
        count, runtime = self._ask_api(about_nodes, "get", "nodes")
        return one_line(server)[:100], count, one_line(runtime)[:100]

    def node_flags(self) -> tuple[str, str]:
        """The number of nodes without taints, and the taints of the others, which need not run tests.

        Without the number, all processes but the first take it for -1 and skip what needs two nodes (setupSuite in
        test/e2e/e2e.go). Raises SmallkubeError.
        """

        def flags(found: Any) -> tuple[str, str]:
            taints = [{taint["key"] for taint in node["spec"].get("taints", ())} for node in found["items"]]
            keys = sorted(key for key in set().union(*taints) if _TAINT.fullmatch(key))
            return f"--num-nodes={taints.count(set())}", f"--non-blocking-taints={','.join(keys)}"

        return self._ask_api(flags, "get", "nodes")

    def _ask_api(self, parse: Callable[[Any], T], *words: str) -> T:
        """What ``parse`` makes of the JSON that kubectl prints."""
        argv = [*self.prefix, self.kubectl, f"--kubeconfig={self.kubeconfig}", "--request-timeout=30s", *words]
        done = process.run([str(word) for word in (*argv, "--output=json")])
        if not done.ok:
            reason = one_line((split_lines(done.stderr.strip()) or ["no message"])[-1])[:300]
            raise SmallkubeError(f"the API server does not answer: {reason}", where=str(self.kubeconfig))
        try:
            return parse(json.loads(done.stdout))
        except MALFORMED as error:
            raise SmallkubeError("unexpected output from kubectl", where=str(self.kubeconfig)) from error

    def argv(self, group: catalogue.Group) -> list[str]:
        """The command line that runs the tests of ``group``."""
        ours = [
            f"--kubeconfig={self.kubeconfig}",
            f"--kubectl-path={self.kubectl}",
            f"--dns-domain={self.domain}",
            *self.node_flags(),
            "--provider=skeleton",
        ]
        flags = ["v", "no-color", f"timeout={_LONGEST}", *(f"focus={catalogue.pattern(name)}" for name in group.names)]
        several = min(self.processes, len(group.names))
        if self.ginkgo and several > 1 and not group.alone:
            words = [str(self.ginkgo), "run", f"--procs={several}", *(f"--{flag}" for flag in flags)]
            return [*self.prefix, *words, str(self.program), "--", *ours]
        return [*self.prefix, str(self.program), *(f"--ginkgo.{flag}" for flag in flags), *ours]


def run(suite: Suite, group: catalogue.Group, take: Callable[[Outcome], object], log: Path) -> None:
    """Run the tests of ``group``; ``take`` gets each outcome as it comes, ``log`` all that the program prints.

    An exception meanwhile, such as Ctrl-C, ends the program: the tests under way remove what they made. Raises
    SmallkubeError when no test could run.
    """
    reader = Reader(group.names)
    with process.logged(str(suite.program)) as ended, log.open("ab", buffering=0) as sink:
        running = process.start(
            suite.argv(group),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=process.plain_environment(),
            start_new_session=True,
        )
        printed = cast(IO[bytes], running.stdout)

        def read() -> None:
            while data := printed.readline(_LINE_BYTES):
                if sink.tell() < _LOG_BYTES:
                    sink.write(data)
                if outcome := reader.feed(data.decode(errors="replace")):
                    take(outcome)

        try:
            read()
        except BaseException:
            _interrupt(running, read)
            raise
        finally:
            _kill(running)
        if outcome := reader.end():
            take(outcome)
        ended(f"exit status {running.returncode}")
    if not reader.found:
        raise SmallkubeError(f"no test ran: {reader.fault or 'see the output'}", where=str(log))


def _interrupt(running: "subprocess.Popen[bytes]", rest: Callable[[], object]) -> None:
    """Have the program end its tests, and take the ``rest`` of what it prints."""
    late = threading.Timer(GRACE_SECONDS, _kill, [running])
    late.start()
    try:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGINT)
        rest()
    finally:
        late.cancel()


def _kill(running: "subprocess.Popen[bytes]") -> None:
    """End what is left of the program and its processes."""
    if running.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def program_at(path: Path) -> Path:
    """The test program that was named. Raises UsageError when it is not one."""
    program = path.absolute()
    if not (program.is_file() and os.access(program, os.X_OK)):
        raise UsageError("is not a program", where=str(program), hint="kubernetes-test-linux-amd64.tar.gz has e2e.test")
    return program


def kubectl_at(path: str | None) -> Path:
    """kubectl as named, or from PATH. Raises UsageError."""
    found = process.find(path or "kubectl")
    if found is None:
        raise UsageError(f"{path or 'kubectl'} not found", hint="--kubectl PATH: tests of kubectl run it")
    return Path(found).absolute()
