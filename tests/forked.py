"""`inv` in a process of its own, without the half second in which Python would load what this one has loaded already.

The process is a fork of the test's, with an environment, folder, standard streams and exit status of its own. Where the
command is to be killed, sent signals or given a terminal, start the real one.
"""

import importlib
import os
import pkgutil
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NoReturn

import smallkube
from smallkube.core.workspace import REPOSITORY


@cache
def _load_everything() -> None:
    for module in pkgutil.walk_packages(smallkube.__path__, "smallkube."):
        importlib.import_module(module.name)


def inv(*words: str, environment: Mapping[str, str], seconds: float = 120) -> "subprocess.CompletedProcess[str]":
    """Run one task as ``inv`` in the folder / would, without input; raises TimeoutExpired after ``seconds``."""
    _load_everything()
    argv = ["inv", "--search-root", str(REPOSITORY), *words]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            _become(argv, environment, out.fileno(), err.fileno())
        handle, ended = os.pidfd_open(pid), []
        try:
            ended = select.select([handle], [], [], seconds)[0]
        finally:
            os.close(handle)
            if not ended:  # also when the test is interrupted
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        for stream in (out, err):
            stream.seek(0)
        texts = [stream.read().decode(errors="surrogateescape") for stream in (out, err)]
    if not ended:
        raise subprocess.TimeoutExpired(argv, seconds, *texts)
    return subprocess.CompletedProcess(argv, os.waitstatus_to_exitcode(status), *texts)


def _become(argv: list[str], environment: Mapping[str, str], out: int, err: int) -> NoReturn:
    status: object = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor, own in enumerate((null, out, err)):
            os.dup2(own, descriptor)
        # Another thread may just be starting a process: it waits until nobody holds its pipe any more. The numbers stay
        # in use, or what still writes to one would write into a file that is opened here.
        for descriptor in (int(entry.name) for entry in [*Path("/proc/self/fd").iterdir()]):
            if descriptor > 2 and descriptor != null:
                os.dup2(null, descriptor, inheritable=False)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir("/")
        sys.argv = argv
        from invoke.main import program

        program.run(argv)
        status = 0
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            print(status, file=sys.stderr)  # noqa: T201
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))
