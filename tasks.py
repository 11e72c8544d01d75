"""The tasks of smallkube: `inv --list` shows them, `inv --help TASK` explains one."""

from smallkube.tasks.collection import namespace

__all__ = ["namespace"]
