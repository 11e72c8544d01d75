"""Durations as they are typed."""

import re

from smallkube.core.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str, flag: str) -> int:
    """``text`` such as "90s", "30m", "2h" or "7d" in seconds. Raises UsageError, naming ``flag``, for anything else."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text, re.ASCII)
    if not found:
        raise UsageError(f"{flag} {text}", hint="expected a number and its unit: 90s, 30m, 2h or 7d")
    return int(found[1]) * _UNITS[found[2]]
