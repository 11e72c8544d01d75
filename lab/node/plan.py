"""What happens to which unit when one system takes another's place: pure, so that tests can be tables.

The rules are those of NixOS' switch-to-configuration (nixos/doc/manual/development/what-happens-during-a-system-switch
and nixpkgs' switch-to-configuration-ng).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lab.node.unitfile import Change, compare, flag

UNTOUCHED_TARGETS = frozenset({"suspend.target", "hibernate.target", "hybrid-sleep.target"})
RUNNING = frozenset({"active", "activating", "reloading"})


@dataclass(frozen=True)
class Unit:
    """A unit of a system: its own file, or what it adds to one that the machine has anyway (``dropin``)."""

    text: str
    dropin: bool = False
    masked: bool = False


@dataclass(frozen=True)
class Plan:
    """Units by what is to be done with them, each sorted. ``start`` has what is stopped first and started again."""

    stop: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    reload: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


def make(old: Mapping[str, Unit], new: Mapping[str, Unit], states: Mapping[str, str], targets: frozenset[str]) -> Plan:
    """The plan for going from the units ``old`` to ``new``.

    ``states`` is systemd's ActiveState of every loaded unit; ``targets`` are those that start units of ``new``: the
    ones that are active are started once more, which starts what they newly want.
    """
    done: dict[str, set[str]] = {kind: set() for kind in ("stop", "skip", "reload", "restart", "start")}
    for name, state in states.items():
        before, after = _unit(old, name), _unit(new, name)
        if state not in RUNNING or before is None:
            continue
        if (after is None or after.masked) and not before.dropin:
            if flag(before.text, "X-StopOnRemoval", True):
                done["stop"].add(name)
        elif after is None:
            _changed(name, before.text, before.text, Change.RESTART, done)
        elif name.endswith(".target"):
            if flag(after.text, "X-StopOnReconfiguration", False):
                done["stop"].add(name)
        else:
            _changed(name, before.text, after.text, compare(before.text, after.text), done)
    for name in new.keys() - old.keys():
        if new[name].dropin and states.get(name) in RUNNING:
            _changed(name, "", new[name].text, compare("", new[name].text), done)
    running_targets = {name for name in targets if states.get(name) in RUNNING} - UNTOUCHED_TARGETS
    return Plan(**{kind: tuple(sorted(names)) for kind, names in done.items()}, targets=tuple(sorted(running_targets)))


def _changed(name: str, before: str, after: str, change: Change, done: dict[str, set[str]]) -> None:
    if change is Change.NONE or name.endswith((".path", ".slice", ".target")):
        return
    if change is Change.RELOAD:
        done["reload"].add(name)
    elif name.endswith((".mount", ".socket")):
        done["restart"].add(name)
    elif flag(after, "X-ReloadIfChanged", False):
        done["reload"].add(name)
    elif not _may_restart(after):
        done["skip"].add(name)
    elif flag(after, "X-StopIfChanged", True) and flag(before, "X-StopIfChanged", True):
        done["stop"].add(name)
        done["start"].add(name)
    else:
        done["restart"].add(name)


def _may_restart(text: str) -> bool:
    return (
        flag(text, "X-RestartIfChanged", True)
        and not flag(text, "RefuseManualStop", False)
        and not flag(text, "X-OnlyManualStart", False)
    )


def _unit(units: Mapping[str, Unit], name: str) -> Unit | None:
    """The unit of this name, or the template it is an instance of."""
    return units.get(name) or units.get(re.sub(r"@.+(\.[a-z]+)$", r"@\1", name))
