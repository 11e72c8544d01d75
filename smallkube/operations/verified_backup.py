"""A backup of etcd that is verified before something is changed."""

from datetime import UTC, datetime

from smallkube.core.errors import SmallkubeError
from smallkube.etcd import catalog, host, run, verify
from smallkube.inventory.cluster import Cluster
from smallkube.remote.ssh import SshHost
from smallkube.secrets.age import Master


def back_up(cluster: Cluster, master: Master) -> str:
    """Take a backup of etcd and verify it; its name. Raises SmallkubeError when it is not sound."""
    now, primary = datetime.now(UTC), cluster.inventory.primary
    wanted = run.request(cluster, now, host.Source(), older=False)
    report = run.run(cluster, lambda: SshHost(cluster.workspace, primary), wanted, lambda _: None)
    with run.locked(catalog.folder_of(cluster)) as there:
        findings = verify.verify(there, [there.find(report.record.name)], master, now)
    if bad := [finding.detail for finding in findings if finding.result == "failed"]:
        raise SmallkubeError(f"nothing was changed: the backup is not sound: {bad[0]}", where=report.record.name)
    return report.record.name
