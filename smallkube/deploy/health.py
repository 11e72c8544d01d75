"""Is a machine well after an activation? Pure: compares what it said before with what it says now."""

import re
from collections.abc import Sequence

from smallkube.deploy.facts import HostFacts, Progress

OWN_UNITS = ("smallkube-activate-", "smallkube-rollback-")
_UNITS_FAILED = re.compile(r"the following units failed: (.*)")
"""How switch-to-configuration(8) names them, also those that are to be started again."""
MIN_STORE_KIB = 1 << 20
MIN_STATE_KIB = 50 << 10
MAX_CLOCK_SECONDS = 30


def unfit(look: HostFacts, now: float, expected_host_key: str) -> Sequence[str]:
    """Why this machine must not be deployed to, in words; ``now`` in seconds since 1970."""
    reasons = []
    if look.store_free < MIN_STORE_KIB:
        reasons.append(f"only {look.store_free >> 10} MiB free in /nix/store; run nix-collect-garbage there")
    if look.state_free < MIN_STATE_KIB:
        reasons.append(f"only {look.state_free >> 10} MiB free in /var/lib")
    if abs(look.clock - now) > MAX_CLOCK_SECONDS:
        reasons.append(f"its clock is {look.clock - now:+.0f} s off; certificates and tokens depend on it")
    if look.host_key.split()[:2] != expected_host_key.split()[:2]:
        reasons.append(
            "its /etc/ssh/ssh_host_ed25519_key is not the key that the secrets are encrypted to; "
            "run inv keys.scan --replace, inv keys.rekey"
        )
    return reasons


def ill(before: HostFacts, now: Progress, system: str) -> Sequence[str]:
    """What is wrong after the activation of ``system``, in words."""
    reasons = []
    if now.status is None:
        reasons.append("the activation has not ended")
    elif now.status:
        units = _UNITS_FAILED.findall(now.log)
        named = f" ({', '.join(units)})" if units else ""
        reasons.append(f"switch-to-configuration ended with status {now.status}{named}")
    if now.system != system:
        reasons.append(f"it runs {now.system}")
    failed = sorted(unit for unit in now.failed - before.failed if not unit.startswith(OWN_UNITS))
    if failed:
        reasons.append(f"failed units: {', '.join(failed)}")
    return reasons
