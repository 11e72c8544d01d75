"""What of the running configuration this machine can't do: for the operator, because a lab must not seem to be NixOS.

``lab-report`` prints it; switch-to-configuration says it in short.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = Path("/run/smallkube-lab/report.json")


@dataclass(frozen=True)
class Report:
    """Where the machine falls short of the configuration.

    ``missing``: unit to programs that are missing, so that it stays inactive. ``wireguard``: devices that run in
    user space. ``unsupported``: options of the configuration that the lab knows nothing of. ``kernel``: modules and
    kernel settings that could not be applied. ``other``: the rest, in words.
    """

    missing: Mapping[str, Sequence[str]]
    wireguard: Sequence[str]
    unsupported: Sequence[str]
    kernel: Sequence[str]
    other: Sequence[str]

    def lines(self) -> list[str]:
        """The report in words, one fact a line."""
        said = [
            f"{unit} stays inactive: not here: {', '.join(sorted({_program(path) for path in programs}))}"
            for unit, programs in sorted(self.missing.items())
        ]
        said += [f"WireGuard device {device} runs in user space" for device in self.wireguard]
        said += [f"not applied: {option}" for option in self.unsupported]
        return [*said, *self.kernel, *self.other]


def _program(path: str) -> str:
    """The program, or for a ``bin`` folder its package."""
    return path.removesuffix("/bin").rsplit("/", 1)[-1]


def save(report: Report, file: Path = FILE) -> None:
    """Keep ``report`` until the machine is restarted."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(report), indent=1))
    fresh.replace(file)


def load(file: Path = FILE) -> Report:
    """The report of the last activation; an empty one before the first."""
    if not file.exists():
        return Report({}, [], [], [], [])
    return Report(**json.loads(file.read_text()))
