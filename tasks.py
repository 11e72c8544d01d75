"""The tasks of smallkube: `inv --list` shows them, `inv --help TASK` explains one."""

from smallkube.cli.collection import namespace

__all__ = ["namespace"]
