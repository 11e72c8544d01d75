"""The tasks of smallkube: `inv --list` shows them, `inv --help TASK` explains one."""

from lab.tasks import collection as lab
from smallkube.cli.app import tree

namespace = tree(lab)
