"""Programs of this machine: found, run to their end within limits, logged. argv lists only, never a shell."""

import ctypes
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, Protocol

from smallkube.core import log
from smallkube.core.errors import SmallkubeError

DEFAULT_TIMEOUT = 120.0
"""Seconds after which a program is killed: 254 nodes evaluate in about ten on two cores."""
MAX_BYTES = 256 << 20
"""Most that a program may print; the evaluation of 254 nodes takes a tenth of it."""
_CHUNK = 1 << 16
_PR_SET_PDEATHSIG = 1


def free_memory() -> int:
    """Bytes that new programs can take (proc_meminfo(5), MemAvailable); 2 GiB where the kernel does not say."""
    try:
        return int(re.findall(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())[0]) << 10
    except (OSError, IndexError):
        return 2 << 30


class NotStarted(SmallkubeError):
    """A program is not there, or may not be run."""


@dataclass(frozen=True)
class Result:
    """How a program ended; ``stopped`` when its time limit ended it, and then ``status`` is 124."""

    status: int
    stdout: str
    stderr: str
    stopped: bool = False

    @property
    def ok(self) -> bool:
        return self.status == 0


class Source(Protocol):
    """What can be read from: at most so many bytes, none at its end."""

    def read(self, size: int, /) -> bytes: ...


class Sink(Protocol):
    """What can be written to."""

    def write(self, data: bytes, /) -> object: ...


def find(program: str, *folders: str) -> str | None:
    """The program's path, from PATH, the folders of administration programs or ``folders``; None when absent."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *folders]))


def plain_environment() -> dict[str, str]:
    """What every program may know of ours."""
    kept = ("PATH", "HOME", "TMPDIR", "XDG_CONFIG_HOME")
    return {key: os.environ[key] for key in kept if key in os.environ} | {"LC_ALL": "C.UTF-8"}


def start(argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """A program that runs, with the ``options`` of Popen. Raises NotStarted."""
    try:
        return subprocess.Popen(argv, **options)
    except OSError as error:
        raise NotStarted(f"can't be started: {error.strerror}", where=argv[0]) from error


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float = DEFAULT_TIMEOUT,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    until: str = "",
    die_with_us: bool = False,
) -> Result:
    """Run ``argv`` in ``folder`` to its end or its time limit, with ``environment`` added to a plain one.

    A program that does not end by itself is terminated once it says ``until`` on standard error. ``die_with_us``: it
    is killed when we are; only for a process without other threads.

    Raises NotStarted, and SmallkubeError when it prints more than MAX_BYTES.
    """
    words = [str(word) for word in argv]
    with logged(words[0]) as ended:
        process = start(
            words,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=plain_environment() | dict(environment or {}),
            preexec_fn=tie_to_us if die_with_us else None,
        )
        with process:
            try:
                result = _collect(process, time.monotonic() + timeout, until)
            finally:
                process.kill()  # if it has not ended
        ended("time limit" if result.stopped else f"exit status {result.status}")
        return result


def _collect(process: subprocess.Popen[bytes], deadline: float, until: str) -> Result:
    assert process.stdout and process.stderr
    output, errors = bytearray(), bytearray()
    stopped = False
    with selectors.DefaultSelector() as open_streams:
        open_streams.register(process.stdout, selectors.EVENT_READ, output)
        open_streams.register(process.stderr, selectors.EVENT_READ, errors)
        while open_streams.get_map() and not stopped:
            ready = open_streams.select(max(0.0, deadline - time.monotonic()))
            stopped = not ready or time.monotonic() > deadline
            for key, _ in ready:
                data = os.read(key.fd, _CHUNK)
                key.data.extend(data)
                if not data:
                    open_streams.unregister(key.fileobj)
            if len(output) + len(errors) > MAX_BYTES:
                raise SmallkubeError(f"printed more than {MAX_BYTES >> 20} MiB", where=str(process.args[0]))  # type: ignore[index]
            if until and until.encode() in errors:
                process.terminate()
                break
    try:
        process.wait(0 if stopped else max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        stopped = True
    status = 124 if stopped else process.returncode
    return Result(status, output.decode(errors="replace"), errors.decode(errors="replace"), stopped)


def run_filter(
    argv: Sequence[str], source: Source, sink: Sink, *, timeout: float, pass_fds: Sequence[int] = ()
) -> Result:
    """Run ``argv`` on what ``source`` has, and give ``sink`` what it prints, neither whole in memory.

    With our environment, and our terminal, on which it may ask for something. Raises NotStarted, and what ``source``
    and ``sink`` raise.
    """
    with logged(argv[0]) as ended:
        pipe = subprocess.PIPE
        process = start(argv, stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=pass_fds)
        timer = threading.Timer(timeout, process.kill)
        with process, ThreadPoolExecutor(2) as pool:
            assert process.stdin and process.stdout and process.stderr
            timer.start()
            feeding, errors = pool.submit(_feed, source, process.stdin), pool.submit(_echo, process.stderr)
            try:
                while data := process.stdout.read(_CHUNK):
                    sink.write(data)
                process.wait()
            finally:
                timer.cancel()
                process.kill()  # if it has not ended
            feeding.result()
        ended(f"exit status {process.returncode}")
        return Result(process.returncode, "", errors.result())


def _feed(source: Source, sink: IO[bytes]) -> None:
    """All of ``source``, as far as the program reads."""
    with suppress(BrokenPipeError), sink:
        while data := source.read(_CHUNK):
            sink.write(data)


def _echo(source: IO[bytes]) -> str:
    """Show what the program says as it says it, where that is a terminal; the beginning of it."""
    kept = b""
    while data := os.read(source.fileno(), _CHUNK):
        kept = (kept + data)[:_CHUNK]
        if sys.stderr.isatty():
            os.write(2, data)
    return kept.decode(errors="replace")


def run_interactive(argv: Sequence[str | Path], *, messages: bool = False) -> int:
    """Run ``argv`` on our terminal, with our environment and without limits; its exit status. Raises NotStarted.

    ``messages``: what it prints is no result, and goes to standard error.
    """
    words = [str(word) for word in argv]
    with logged(words[0]) as ended:
        try:
            status = subprocess.run(words, check=False, stdout=2 if messages else None).returncode
        except OSError as error:
            raise NotStarted(f"can't be started: {error.strerror}", where=words[0]) from error
        ended(f"exit status {status}")
    return status


@contextmanager
def logged(program: str) -> Iterator[Callable[[str], object]]:
    """Log the ``program`` that the block runs; the function that it yields takes how that ended."""
    began, outcomes = time.monotonic(), ["failed or interrupted"]
    try:
        yield outcomes.append
    finally:
        log.command("local", Path(program).name, time.monotonic() - began, outcomes[-1])


def tie_to_us() -> None:
    """Between fork and exec: the kernel kills the new process when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def signals_as_errors(state: str) -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the block by a SmallkubeError that says in which ``state`` things are left."""

    def stop(number: int, _: FrameType | None) -> None:
        raise SmallkubeError(f"stopped by {signal.Signals(number).name}; {state}")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
