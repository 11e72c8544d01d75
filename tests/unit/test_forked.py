"""A forked command is on its own: what other threads of the test have open is not open in it."""

import os
from pathlib import Path

from tests import forked

LISTS_ITS_CALLERS = """\
#!/bin/sh
ls -l /proc/$PPID/fd >{seen}
"""


def test_a_forked_command_holds_no_pipe_of_the_test(tmp_path: Path) -> None:
    seen, git = tmp_path / "seen", tmp_path / "git"
    git.write_text(LISTS_ITS_CALLERS.format(seen=seen))
    git.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    reading, writing = os.pipe()
    pipe = str(Path(f"/proc/self/fd/{writing}").readlink())
    forked.inv("doctor", environment={**environment, "SMALLKUBE_WORKSPACE": str(tmp_path)})
    os.close(reading)
    os.close(writing)
    assert "0 -> /dev/null" in seen.read_text()
    assert pipe not in seen.read_text()
