"""How processes of a lab are found again by their mark, and the first of a machine without looking at all of them."""

import os
from collections.abc import Callable
from pathlib import Path

from lab import processes
from smallkube.core.polling import wait_until


def test_the_first_of_a_machine_is_known_while_it_lives(
    tmp_path: Path, needs: Callable[[str, object, str], None]
) -> None:
    needs("integration", os.geteuid() == 0, "root, for a process namespace")

    def started() -> int:
        argv = ["unshare", "--pid", "--fork", "sleep", "600"]
        processes.spawn(argv, tmp_path, "machine one", tmp_path / "log")
        wait_until(lambda: [] if processes.first_inside(tmp_path, "machine one") else ["it"], 60, "not started")
        return processes.first_inside(tmp_path, "machine one") or 0

    try:
        first = started()
        found = processes.find(tmp_path)
        assert {(each.name, each.role) for each in found} == {("unshare", "machine one"), ("sleep", "machine one")}
        assert first == next(each.pid for each in found if each.name == "sleep")
        assert processes.find(tmp_path, "machine") == processes.find(tmp_path.parent) == []
        assert processes.first_inside(tmp_path, "machine two") is None
        processes.kill(tmp_path, "machine one")
        assert processes.first_inside(tmp_path, "machine one") is None
        assert started() != first
    finally:
        processes.kill(tmp_path)
    assert processes.find(tmp_path) == []
