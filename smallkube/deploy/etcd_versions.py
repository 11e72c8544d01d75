"""etcd across a deploy or rollback: a newer minor takes the data over by itself, and an older one does not start on it.

etcd 3.7 starts on data of 3.6.11 or later only (etcd.io/docs/v3.7/upgrades/upgrade_3_7), and raises its version at
once. etcd 3.6 then refuses it, until `etcdctl downgrade enable 3.6` has lowered it.
"""

import re
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError
from smallkube.deploy.facts import SCRIPTS
from smallkube.etcd.status import ENDPOINT
from smallkube.remote import scripts
from smallkube.remote.host import Host

BEFORE_3_7 = (3, 6, 11)


@dataclass(frozen=True)
class EtcdFacts:
    """Versions such as "3.6.14", "" when unknown: the ``running`` etcd, its ``data``, and the ``target`` system's."""

    running: str
    data: str
    target: str


def verify(host: Host, system: str, *, reversible: bool) -> None:
    """Raise SmallkubeError when ``system``, a store path on the primary, must not be activated because of its etcd.

    ``reversible``: a rollback to the running system must be possible. Unknown versions, as before the first deploy, are
    no obstacle.
    """
    found = scripts.read(host, SCRIPTS.sent("facts", "etcd", system, ENDPOINT, title="etcd versions"), EtcdFacts)
    if problem := refusal(found, reversible=reversible):
        raise SmallkubeError(problem[0], where=host.where, hint=problem[1])


def refusal(found: EtcdFacts, *, reversible: bool) -> tuple[str, str] | None:
    """What is wrong, and what to do; None when nothing is."""
    running, data, target = map(_numbers, (found.running, found.data, found.target))
    if not target:
        return None
    minor = ".".join(map(str, target[:2]))
    name = f"etcd {minor}"
    if data[:2] > target[:2]:
        command = f"etcdctl --endpoints {ENDPOINT} downgrade enable {minor}"
        return (
            f"{name} does not start on data of etcd {found.data}; nothing was activated",
            f"run `inv etcd.backup`, then `{command}` there, and repeat this after ten seconds",
        )
    if target[:2] >= (3, 7) and running and running < BEFORE_3_7:
        needed = ".".join(map(str, BEFORE_3_7))
        return f"{name} needs data of etcd {needed} or later, not {found.running}", f"deploy etcd {needed} first"
    if running and running[:2] < target[:2] and reversible:
        return (
            f"{name} raises the version of the data, and an automatic rollback to etcd {found.running} would fail",
            "back up first (inv etcd.backup), then pass --no-rollback",
        )
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """Also of what comes before a release, such as 3.7.0-rc.0; empty for what is no version."""
    found = re.match(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?![\d.])", version)
    return tuple(int(each) for each in found.groups() if each) if found else ()
