"""Advisories of Kubernetes that the operator has on this machine, compared with the versions of a lock file.

Format: OSV (https://ossf.github.io/osv-schema), in which github.com/kubernetes-sigs/cve-feed-osv keeps what Kubernetes
publishes, a file for each in ``vulns``. The feed of kubernetes.io itself (official-cve-feed/index.json) names affected
versions in prose only, so nothing can be compared with it.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallkube.core.errors import MALFORMED, UsageError
from smallkube.core.files import read_given

Version = tuple[int, int, int, bool]
"""The last is False for what comes before the release of these numbers, such as 1.37.0-rc.1."""
PROGRAMS = ("apiserver", "controller-manager", "scheduler", "proxy")
NAMES = {
    *("k8s.io/kubernetes", "k8s.io/kubelet", "k8s.io/kubectl", "k8s.io/client-go"),
    *(f"k8s.io/{prefix}{name}" for name in PROGRAMS for prefix in ("", "kube-")),
}
"""Packages of the ecosystem Kubernetes whose versions are those of Kubernetes."""
MAX_FILES, MAX_BYTES = 10_000, 5_000_000
_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")
_HINT = "name a copy of github.com/kubernetes-sigs/cve-feed-osv, or a file of it"


@dataclass(frozen=True)
class Advisory:
    """``ranges``: of each its events, in the order of their versions: kind and version. ``day``: YYYY-MM-DD."""

    name: str
    summary: str
    day: str
    ranges: tuple[tuple[tuple[str, Version], ...], ...]

    def __str__(self) -> str:
        return f"{self.name} ({self.summary})" if self.summary else self.name

    def affects(self, version: Version) -> bool:
        """The schema's own algorithm ("Evaluation")."""
        return any(_contains(events, version) for events in self.ranges)


def _contains(events: Sequence[tuple[str, Version]], version: Version) -> bool:
    affected = False
    for kind, bound in events:
        if kind == "introduced" and version >= bound:
            affected = True
        elif (kind == "fixed" and version >= bound) or (kind == "last_affected" and version > bound):
            affected = False
    return affected


def read(place: Path) -> tuple[Advisory, ...]:
    """The advisories of Kubernetes in a file, or in the JSON files of a folder or its ``vulns``, but withdrawn ones.

    Raises UsageError for a place without any, and for a file that is something else.
    """
    folder = place / "vulns" if (place / "vulns").is_dir() else place
    files = sorted(folder.glob("*.json")) if folder.is_dir() else [folder]
    if not files or len(files) > MAX_FILES:
        raise UsageError(f"{len(files)} advisories", where=str(place), hint=_HINT)
    found = [advisory for file in files if (advisory := _read(file))]
    if not found:
        raise UsageError("no advisory of Kubernetes", where=str(place), hint=_HINT)
    return tuple(found)


def _read(file: Path) -> Advisory | None:
    text = read_given(file, MAX_BYTES)
    try:
        record = json.loads(text)
        ours = [each for each in record.get("affected", []) if _is_ours(each["package"])]
        if "withdrawn" in record or not ours:
            record["id"], record["modified"]  # of any OSV record
            return None
        ranges = [each for affected in ours for each in affected["ranges"] if each["type"] in ("SEMVER", "ECOSYSTEM")]
        name, day = (re.fullmatch(r"[\w.-]{1,40}", record["id"]), re.match(r"\d{4}-\d\d-\d\d", record["modified"]))
        if not (name and day and ranges):
            raise ValueError("no id, date or range")
        summary = "".join(filter(str.isprintable, str(record.get("summary", ""))))[:120]
        return Advisory(name[0], summary, day[0], tuple(map(_events, ranges)))
    except MALFORMED as error:
        raise UsageError("no advisory in the format of OSV", where=str(file), hint=_HINT) from error


def _is_ours(package: Mapping[str, str]) -> bool:
    ecosystem, name = package["ecosystem"].lower(), package["name"]
    return name in NAMES if ecosystem == "kubernetes" else (ecosystem, name) == ("go", "k8s.io/kubernetes")


def _events(found: Mapping[str, Any]) -> tuple[tuple[str, Version], ...]:
    pairs = [pair for each in found["events"] for pair in each.items()]
    events = [(kind, parse("0.0.0-0" if bound == "0" else bound)) for kind, bound in pairs]
    if {kind for kind, _ in events} - {"introduced", "fixed", "last_affected"}:
        raise ValueError("another kind of event")
    return tuple(sorted(events, key=lambda event: event[1]))


def parse(version: str) -> Version:
    """Raises ValueError for what is no semantic version."""
    found = _VERSION.fullmatch(version)
    if not found:
        raise ValueError(f"{version[:40]!r} is no version")
    return int(found[1]), int(found[2]), int(found[3]), found[4] is None


def compare(advisories: Sequence[Advisory], before: str, after: str) -> Iterator[str]:
    """What is known of an update of Kubernetes, a line each; the versions are those of nixpkgs.

    Raises ValueError for what is no version.
    """
    old, new = parse(before), parse(after)
    yield from (f"fixed in {after}: {each}" for each in advisories if each.affects(old) and not each.affects(new))
    yield from (f"Kubernetes {after} is affected: {each}" for each in advisories if each.affects(new))
