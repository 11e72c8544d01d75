"""The tasks of smallkube: `inv --list` shows them, `inv --help TASK` explains one."""

import os
import sys

# Invoke keeps Python from storing what it compiles, which is most of the time that `inv --list` takes.
sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))

from lab.manifest import LINES  # noqa: E402
from smallkube.cli.app import needed  # noqa: E402

namespace = needed(" ".join(sys.argv[1:]), LINES)
"""The tree of tasks under their final names, complete where the command line names them."""
