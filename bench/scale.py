"""The API server with hollow nodes (lab/go/hollow): memory, processor time, latencies, and how they grow.

`python -m bench.scale` on the deployed lab "scale" renews the section "Kubernetes" of docs/scale.md; make bench-scale
makes that lab before and takes it down after. A quarter of an hour.
"""

import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from bench.results import exponent, machine
from lab import hollow
from lab.cluster import Lab
from lab.machine import Machine
from lab.places import Places
from smallkube.cli.bar import Bar
from smallkube.core import ui
from smallkube.core.files import write_file
from smallkube.core.polling import wait_until
from smallkube.core.workspace import REPOSITORY
from smallkube.inventory.load import parse
from smallkube.secrets import certificates, policy

DOCUMENT = REPOSITORY / "docs/scale.md"
NAME, REAL, SIZES = "scale", 2, (2, 32, 128, 254)
"""Of the lab; its machines; nodes in all."""
UNITS = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler")
WINDOW = 60
"""Seconds over which processor time is taken, while nothing is done to the cluster."""
RUNS = 5
KUBECTL = ("env", "KUBECONFIG=/run/kubeconfig-root", "/run/current-system/sw/bin/kubectl", "--request-timeout=60s")
USAGE = """
for unit; do
  pid=$(systemctl show --value --property MainPID "$unit")
  awk '/^VmRSS/ { print $2 }' "/proc/$pid/status"
  sed 's/.*) //' "/proc/$pid/stat" | awk '{ print $12 + $13 }'
done
"""
ENTRY = re.compile(
    r"^# (?!sha256 )([^\n]+)\n(-----BEGIN CERTIFICATE-----\n[^-]+-----END CERTIFICATE-----\n)", re.MULTILINE
)
PODS = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "hollow", "namespace": "default"},
    "spec": {
        "selector": {"matchLabels": {"app": "hollow"}},
        "template": {
            "metadata": {"labels": {"app": "hollow"}},
            "spec": {
                "tolerations": [{"operator": "Exists"}],
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {
                        "name": "main",
                        "image": "smallkube.lab/busybox:1",
                        "command": ["sleep", "1000000"],
                        "imagePullPolicy": "Never",
                    }
                ],
            },
        },
    },
}
Values = dict[str, float]


def main() -> None:
    lab = Lab(Places.find(os.environ), NAME)
    primary = lab.machine("node1")
    with Bar() as bar:
        program = hollow.PROGRAMS.ensure(lab.places.cache, bar) / hollow.PROGRAMS.prefix / "bin/hollow"
    primary.check(*KUBECTL, "apply", "--filename=-", stdin=json.dumps(PODS))
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder)
        accepted = accept(primary, make_identities(primary, keys))
        measured: dict[int, Values] = {}
        with start(program, primary, keys) as process:
            for before, size in zip((REAL, *SIZES), SIZES, strict=False):
                try:
                    measured[size] = step(process, primary, before, size)
                finally:
                    (keys.parent / "smallkube-scale.json").write_text(json.dumps(measured))
                ui.message(f"{size} nodes: {json.dumps(measured[size])}")
            assert process.stdin
            process.stdin.close()
    text = DOCUMENT.read_text() if DOCUMENT.exists() else "# Scale\n"
    write_file(DOCUMENT, renewed(text, [accepted, *table(measured)]))


def make_identities(primary: Machine, keys: Path) -> str:
    """Keys and certificates of each node that is not there, in ``keys``; returns their part of the document."""
    nodes = "".join(f"  node{index}: {{peer_ip: 192.0.2.{index}}}\n" for index in range(1, max(SIZES) + 1))
    inventory = parse(f"cluster: {{name: scale}}\nnodes:\n{nodes}", Path("inventory.yaml"))
    found = ""
    for row in policy.identities(inventory):
        match = re.fullmatch(r"(.*_node(\d+))\.crt", row.certificate.file if row.certificate else "")
        if row.certificate and match and int(match[2]) > REAL:
            key = certificates.new_key()
            pem = certificates.issue(row.certificate, key, datetime.now(UTC)).decode()
            (keys / f"{match[1]}.key").write_bytes(key)
            (keys / f"{match[1]}.crt").write_text(pem)
            words = (row.certificate.file, row.certificate.common_name, *row.certificate.groups)
            found += f"# identity {' '.join(words)}\n{pem}"
    (keys / "kubeconfig").write_text(primary.check("cat", "/run/kubeconfig-root"))
    authority = primary.check(
        "sh", "-c", """jq -r '.clusters[0].cluster."certificate-authority-data"' /run/kubeconfig-root | base64 -d"""
    )
    (keys / "apiserver.crt").write_text(authority)
    return found


def accept(primary: Machine, entries: str) -> str:
    """Have the API server accept these certificates beside those that it has; a line that says how long it took."""
    own = ENTRY.findall(primary.check("cat", "/var/lib/kube-identities/clients.crt"))
    text = "".join(f"# identity {words}\n{pem}" for words, pem in own if words.split()[0] not in entries) + entries
    count = text.count("# identity ")
    took = [timed(primary, "kube-identities", "replace", stdin=f"{text}# end {count}\n") for _ in range(2)]
    return f"All {count} certificates were accepted after {took[0]:.0f} s, the same again after {took[1]:.1f} s."


def start(program: Path, primary: Machine, keys: Path) -> "subprocess.Popen[str]":
    """The hollow nodes' process, in the network of the primary."""
    words = [f"--keys={keys}", f"--kubeconfig={keys}/kubeconfig", "--address=10.88.1.1:6443"]
    words += ["--name=api.k8s.internal", "--domain=k8s.internal"]
    argv = ["setpriv", "--pdeathsig", "KILL", "--", "nsenter", f"--net=/proc/{primary.init}/ns/net", "--", str(program)]
    return subprocess.Popen([*argv, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: "subprocess.Popen[str]", **command: object) -> dict[str, Any]:
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps(command) + "\n")
    process.stdin.flush()
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


def step(process: "subprocess.Popen[str]", primary: Machine, before: int, size: int) -> Values:
    """Grow the cluster to ``size`` nodes, and measure."""
    values: Values = {}
    if size > before:
        started = ask(process, first=before + 1, last=size)
        values["seconds until the new nodes watch"] = started["seconds"]
        values["failed requests at the start"] = started["errors"]
    wait_until(lambda: missing(primary, size), 600, f"not every one of {size} nodes has its pod")
    return values | steady(process, primary, size)


def missing(primary: Machine, size: int) -> list[str]:
    ready = int(primary.check(*KUBECTL, "get", "daemonset", "hollow", "--output=jsonpath={.status.numberReady}") or 0)
    return [] if ready >= size else [f"{ready} are ready"]


def steady(process: "subprocess.Popen[str]", primary: Machine, size: int) -> Values:
    """Memory, processor time and latencies of a cluster of this size in which nothing happens."""
    values: Values = {}
    began, first, own = time.monotonic(), usage(primary), ticks(process.pid)
    time.sleep(WINDOW)
    last, taken = usage(primary), time.monotonic() - began
    for unit in UNITS:
        values[f"{unit}: memory, MiB"] = last[unit][0] / 1024
        values[f"{unit}: % of a core"] = 100 * (last[unit][1] - first[unit][1]) / os.sysconf("SC_CLK_TCK") / taken
    values["hollow nodes: % of a core"] = 100 * (ticks(process.pid) - own) / os.sysconf("SC_CLK_TCK") / taken
    values["kubectl get nodes, seconds"] = statistics.median(
        timed(primary, *KUBECTL, "get", "nodes") for _ in range(RUNS)
    )
    found = [ask(process, service=f"probe-{size}-{run}", count=size) for run in range(RUNS)]
    values["programs that watch endpoints"] = found[0]["watchers"]
    values["of these reached within 2 minutes"] = min(each["reached"] for each in found)
    values["a new Service: seconds to half of them"] = statistics.median(each["median"] for each in found)
    values["a new Service: seconds to the last"] = statistics.median(each["last"] for each in found)
    values["failed requests afterwards"] = sum(each["errors"] for each in found)
    return values


def usage(primary: Machine) -> dict[str, tuple[int, int]]:
    """Unit → resident memory in KiB, clock ticks of the processor."""
    numbers = [int(word) for word in primary.check("sh", "-c", USAGE, "usage", *UNITS).split()]
    return dict(zip(UNITS, zip(numbers[::2], numbers[1::2], strict=True), strict=True))


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(fields[11]) + int(fields[12])


def timed(primary: Machine, *command: str, stdin: str = "") -> float:
    began = time.monotonic()
    primary.check(*command, stdin=stdin)
    return time.monotonic() - began


def table(measured: dict[int, Values]) -> list[str]:
    """Markdown: a row for each value, a column for each size."""
    names = list(dict.fromkeys(name for values in measured.values() for name in values))
    lines = [f"| nodes | {' | '.join(map(str, measured))} | exponent |", f"|---|{'---|' * (len(measured) + 1)}"]
    for name in names:
        sizes = [size for size, values in measured.items() if values.get(name, 0) > 0]
        slope = exponent(sizes, [measured[size][name] for size in sizes]) if len(sizes) > 1 else None
        cells = [f"{values[name]:.3g}" if name in values else "" for values in measured.values()]
        lines.append(f"| {name} | {' | '.join(cells)} | {'' if slope is None else f'{slope:.2f}'} |")
    return ["", f"{date.today()}; {machine()}", "", *lines]


BEGIN, END = "<!-- measured by python -m bench.scale -->", "<!-- end of what was measured -->"


def renewed(text: str, lines: Sequence[str]) -> str:
    """``text`` with ``lines`` between the marks of the section "Kubernetes", which is added where it is missing."""
    block = "\n".join((BEGIN, "", *lines, "", END))
    if BEGIN not in text:
        return f"{text.rstrip()}\n\n## Kubernetes\n\n{block}\n"
    before, _, rest = text.partition(BEGIN)
    return before + block + rest.partition(END)[2]


if __name__ == "__main__":
    main()
