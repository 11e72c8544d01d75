"""A backup of etcd that is verified before something is changed."""

from smallkube.core.checks import failed
from smallkube.core.errors import SmallkubeError
from smallkube.etcd import backup, catalog, verify
from smallkube.inventory.cluster import Cluster
from smallkube.remote.ssh import SshHost
from smallkube.secrets.age import Master


def back_up(cluster: Cluster, master: Master) -> str:
    """Take a backup of etcd and verify it; its name. Raises SmallkubeError when it is not sound."""
    primary = cluster.inventory.primary
    report = backup.run(cluster, SshHost(cluster.workspace, primary), backup.Options(), lambda _: None)
    with backup.locked(catalog.folder_of(cluster)) as there:
        checks = verify.verify(there, [report.record.name], master, lambda _: None)
    for check in failed(checks):
        raise SmallkubeError(f"nothing was changed: the backup is not sound: {check.detail}", where=check.subject)
    return report.record.name
