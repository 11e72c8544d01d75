"""Makes a system the running one: NixOS' switch-to-configuration, with its messages and exit statuses.

0: done; 1: not started (usage, lock); 2: the activation had errors; 4: units failed.
"""

import fcntl
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.node import plan, report
from lab.node.activation import activate
from lab.node.shell import output, run, warn
from lab.node.system import PROFILE, System, current

LOCK = Path("/run/nixos/switch-to-configuration.lock")
ACTIONS = ("switch", "boot", "test", "dry-activate")
STARTED = (".service", ".timer", ".path", ".socket")
ACTIVATION_FAILED = 2
UNITS_FAILED = 4


def main(path: str, arguments: Sequence[str]) -> int:
    """``switch-to-configuration ACTION`` of the system at ``path``."""
    if len(arguments) != 1 or arguments[0] not in ACTIONS:
        warn(f"usage: switch-to-configuration {'|'.join(ACTIONS)}")
        return 1
    action, system = arguments[0], System(Path(path).resolve())
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            warn(f"another switch-to-configuration is at work ({LOCK})")
            return 1
        if action in ("switch", "boot") and PROFILE.resolve() != system.path:
            warn(f"the machine will start {PROFILE.resolve()}: the lab boots what {PROFILE} names")
        if action == "boot":
            return 0
        return _go(system, dry=action == "dry-activate")


def _go(system: System, *, dry: bool) -> int:
    old = current()
    states = {unit["unit"]: unit["active"] for unit in _units()}
    steps = plan.make(old.units if old else {}, system.units, states, system.targets)
    if dry:
        _say("would stop the following units", steps.stop)
        _say("would NOT restart the following changed units", steps.skip)
        warn("would activate the configuration...")
        for verb in ("reload", "restart", "start"):
            _say(f"would {verb} the following units", getattr(steps, verb))
        return 0
    _say("stopping the following units", steps.stop)
    if steps.stop:
        run(["systemctl", "stop", "--", *steps.stop])
    _say("NOT restarting the following changed units", steps.skip)
    warn("activating the configuration...")
    status = 0 if activate(system) else ACTIVATION_FAILED
    return max(status, _units_follow(steps, set(states)))


def _units_follow(steps: plan.Plan, known: set[str]) -> int:
    run(["systemctl", "reset-failed"])
    good = run(["systemctl", "daemon-reload"])
    run(["systemd-tmpfiles", "--create", "--remove", "--exclude-prefix=/dev"], quiet=True)
    for verb, doing, units in (
        ("reload", "reloading", steps.reload),
        ("restart", "restarting", steps.restart),
        ("start", "starting", (*steps.start, *steps.targets)),
    ):
        _say(f"{doing} the following units", [unit for unit in units if unit not in steps.targets])
        if units:
            good &= run(["systemctl", verb, "--", *units])
    after = _units()
    _say("the following new units were started", [u["unit"] for u in after if _is_new(u, known)])
    failed = [unit["unit"] for unit in after if unit["active"] == "failed" or _keeps_failing(unit)]
    if failed:
        _say("warning: the following units failed", failed)
        _show(["systemctl", "status", "--no-pager", "--full", "--lines=5", *failed])
    for line in report.load().lines():
        warn(f"lab: {line}")
    return UNITS_FAILED if failed or not good else 0


def _is_new(unit: dict[str, Any], known: set[str]) -> bool:
    return unit["active"] == "active" and unit["unit"] not in known and unit["unit"].endswith(STARTED)


def _keeps_failing(unit: dict[str, Any]) -> bool:
    if unit["sub"] != "auto-restart":
        return False
    shown = output(["systemctl", "show", "--property=ExecMainStatus", "--value", "--", unit["unit"]])
    return shown.strip() not in ("", "0")


def _units() -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(output(["systemctl", "list-units", "--all", "--output=json"]))
    return listed


def _say(what: str, units: Sequence[str]) -> None:
    if units:
        warn(f"{what}: {', '.join(sorted(units))}")


def _show(argv: Sequence[str]) -> None:
    """Run a program and pass on what it says."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    warn(done.stdout.strip())
