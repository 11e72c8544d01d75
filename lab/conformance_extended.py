"""Tests of the suite beyond conformance: which of sig-network and sig-storage the cluster of the lab can pass.

All but those that a pattern of CANNOT_PASS matches, and what has a pattern says why it can't.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from smallkube.conformance.catalogue import sig
from smallkube.core.files import write_file
from smallkube.inventory.load import load

SIGS = ("sig-network", "sig-storage")
SERVICES6 = "fd88::/112"
CANNOT_PASS = (
    (r"\[Feature:Windows\]", "needs a node with Windows"),
    (r"\[Provider:GCE\]|via gce pd|\[Driver: pd\.csi|gce-localssd", "needs Google's cloud"),
    (r"\[Driver: (azure-disk|azure-file|cinder|vsphere)\]|AWS KMS", "needs the cloud of its driver"),
    (r"Volume metrics|DynamicProvisioner (Default|\[Slow\])", "the program skips it except on some clouds"),
    (r"\[Flaky\]", "upstream counts on no result"),
    (r"\[Feature:OffByDefault\]", "its feature is off in Kubernetes' own defaults"),
    (r"\[Feature:LoadBalancer\]", "nothing assigns addresses to Services of type LoadBalancer"),
    (r"\[Feature:NetworkPolicy\]", "nothing enforces NetworkPolicies without the add-on network-policy"),
    (r"\[Feature:SCTPConnectivity\]", "the kernel of the lab has no SCTP"),
    (r"\[Feature:Networking-(IPv4|IPv6|DNS)\]", "needs the Internet"),
    (r"\[Feature:Networking-Performance\]", "the image of agnhost made here has no iperf"),
    (r"configurable pod resolv\.conf", "the image of agnhost made here has no CoreDNS"),
    (r"\[Feature:PerformanceDNS\]", "makes more Services than the default range has addresses"),
    (r"\[Feature:KubeProxyNFAcct\]", "kube-proxy uses nftables here, not iptables"),
    (r"DNS configMap nameserver", "changes the pods of CoreDNS in kube-system; here it is a service of each node"),
    (r"Topology Hints|Traffic Distribution", "needs nodes in three zones"),
    (r"HealthCheckNodePort correctly", "needs three nodes without taints"),
    (r"health check node port", "the firewall closes the ports where load balancers ask for the health of Services"),
    (
        r"endpoints using hostNetwork",
        "takes the names of nodes for those of hosts; here they have the cluster's domain",
    ),
    (r"services on hostNetwork pods with", "reaches a port of another node that the firewall closes"),
    (r"via ExternalIP", "skipped with DenyServiceExternalIPs, the default here"),
    (r"from a terminating Pod", "CRI-O 1.34.0 runs no command in a container that is ending (cri-o/cri-o#7160)"),
    (r"CLOSE_WAIT timeout", "needs the image distroless-iptables"),
    (r"invalid conntrack state", "needs the image regression-issue-74839"),
    (r"should work after restarting (apiserver|kube-proxy)|recreate its iptables rules", "needs SSH to the nodes"),
    (r"GenericPersistentVolume|disruptive \[Disruptive\]|kubelet is down|StaticPods", "stops the kubelet by SSH"),
    (
        r"HostPathType (Block|Character) Device",
        "CRI-O has no MKNOD among its default_capabilities",
    ),
    (r"\[Driver: csi-hostpath\]", "needs the images of the CSI host path driver and its sidecars"),
    (r"\[Driver: nfs3?\]|NFS|DynamicProvisioner External", "needs an NFS server: images volume/nfs, nfs-provisioner"),
    (r"\[Driver: iscsi\]", "needs the image volume/iscsi"),
    (r"Flexvolume", "installs a driver by SSH"),
    (r"PVC Protection|Default StorageClass|Retroactive StorageClass", "needs a default StorageClass: none is deployed"),
    (
        r"\[LocalVolumeType: block(fs)?\]|\[Volume type: block|loopback local block",
        "the containers of the lab have no loop devices",
    ),
    (
        r"\[Driver: (emptydir|hostPath|hostPathSymlink)\] \[Testpattern: (?!Inline-volume \(default fs\))",
        "this driver has inline volumes with the file system of the node only",
    ),
    (
        r"\[Driver: local\] .*\[Testpattern: (?!Pre-provisioned PV \((default fs|filesystem volmode)\))",
        "a local volume that is a folder is a PersistentVolume with the file system of the node only",
    ),
    (r"\[Feature:Volume(SnapshotDataSource|SourceXFS)\]", "needs a driver with snapshots and clones"),
)
"""Regular expression of names, why the cluster of the lab can't pass them. The first that matches counts."""


def others(every: Sequence[str], conformance: Collection[str]) -> tuple[str, ...]:
    """The tests of SIGS among ``every`` that are not of ``conformance``."""
    return tuple(name for name in every if sig(name) in SIGS and name not in conformance)


def reason_row(name: str) -> tuple[str, str] | None:
    """The row of CANNOT_PASS for a test, None when it can pass."""
    return next((row for row in CANNOT_PASS if re.search(row[0], name)), None)


def possible(names: Sequence[str]) -> tuple[str, ...]:
    """The tests among ``names`` that can pass."""
    return tuple(name for name in names if reason_row(name) is None)


def left_out(names: Sequence[str]) -> str:
    """What of ``names`` can't pass, as a list of Markdown."""
    counts = Counter(row for name in names if (row := reason_row(name)))
    first = (
        f"Of {len(names)} tests of {' and '.join(SIGS)} that are not conformance tests, {counts.total()} can't pass:"
    )
    rows = [f"- `{row[0]}` ({counts[row]}): {row[1]}" for row in CANNOT_PASS if row in counts]
    return "\n".join([first, "", *rows]) + "\n"


def give_services_ipv6(file: Path) -> None:
    """Have the Services of the lab's inventory.yaml in both families, so that the tests of dual stack can run."""
    if load(file).cluster.network.services6 is None:
        text = file.read_text()
        write_file(file, text.replace("\nnodes:", f"\n  network: {{services6: '{SERVICES6}'}}\nnodes:", 1))
