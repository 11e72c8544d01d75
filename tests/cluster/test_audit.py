"""What root does is found in the audit log of the API server, and the content of a Secret is not in it."""

import base64
import json

from tests.cluster.conftest import LabCluster

NAMESPACE = "test-audit"
VALUE = "audited-value-of-a-secret"


def test_an_action_is_logged_and_no_secret(cluster: LabCluster) -> None:
    with cluster.namespace(NAMESPACE, wait=False) as namespace:
        metadata = {"name": "audited", "namespace": namespace}
        cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"key": VALUE}})
        cluster.kubectl("-n", namespace, "get", "secret", "audited", "--output=yaml")
        flags = ("--user=root", f"--namespace={namespace}", "--resource=secrets", "--since=10m", "--json")
        found = json.loads(cluster.operator.done("cluster.audit", *flags))
    done = [(each["verb"], each["name"], each["code"], each["user"]) for each in found]
    assert ("patch", "audited", 201, "root") in done  # created by server-side apply
    assert done[-1] == ("get", "audited", 200, "root")
    encoded = base64.b64encode(VALUE.encode()).decode()
    grep = ["grep", "-rcE", "--no-filename", f"{VALUE}|{encoded}", "/var/log/kube-apiserver"]
    assert set(cluster.machine("node1").execute(grep).stdout.split()) == {"0"}
