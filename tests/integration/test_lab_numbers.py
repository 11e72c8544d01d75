"""Proves that labs that begin at the same moment get distinct numbers, and that the kernel frees a crashed lab's."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import network, processes
from smallkube.core.workspace import REPOSITORY

LABS = 6
BEGIN = """\
import sys, time
from pathlib import Path
from lab.cluster import Lab
from lab.places import Places
from lab.record import Parts

lab = Lab(Places(Path(sys.argv[1], "cache"), Path(sys.argv[1], "state")), "lab")
print(flush=True)
sys.stdin.readline()
with lab.begin(Parts(), None) as (record, _):
    print(record.number, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def ssh_keygen(needs: Callable[[str, object, str], None]) -> None:
    needs("integration", shutil.which("ssh-keygen"), "ssh-keygen")


def test_labs_begun_at_once_have_distinct_numbers(tmp_path: Path, ssh_keygen: None) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", BEGIN, str(tmp_path / str(index))],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(LABS)
    ]
    try:
        for process in started:
            assert process.stdout and process.stdout.readline() == "\n"
        for process in started:
            assert process.stdin
            process.stdin.write("begin\n")
            process.stdin.flush()
        numbers = [int(process.stdout.readline()) for process in started if process.stdout]
        assert len(set(numbers)) == LABS
        assert network.claim(numbers[0]) is None
    finally:
        for process in started:
            process.kill()
            process.communicate()
    again = network.claim(numbers[0])
    assert again is not None, "the number of a killed lab is free"
    again.close()


def test_a_process_of_the_lab_keeps_its_number(tmp_path: Path) -> None:
    number, claim = network.claim_number(network.claim)
    with claim:
        processes.spawn(["sleep", "60"], tmp_path, "hub", tmp_path / "log", inherited=[claim.fileno()])
    try:
        assert network.claim(number) is None
    finally:
        processes.kill(tmp_path)
    again = network.claim(number)
    assert again is not None
    again.close()
