"""Proves, on machines that were deployed, what protects them: read from the machines, tried from inside."""

import json

from smallkube.inventory.load import load
from smallkube.secrets import policy
from tests.lab.operating import Operator


def test_deploy_status_is_ok_on_every_node(deployed: Operator) -> None:
    deployed.deploy()
    for task in ("net.check", "deploy.status"):
        findings = json.loads(deployed.done(task, "--json"))
        assert {finding["subject"] for finding in findings} == {"node1", "node2"}
        assert not [finding for finding in findings if finding["result"] == "failed"]


def test_services_without_programs_are_reported_inactive(deployed: Operator) -> None:
    findings = json.loads(deployed.done("deploy.status", "--json"))
    runs = " ".join(
        finding["detail"] for finding in findings if finding["check"] == "services" and finding["result"] == "ok"
    )
    assert "etcd" in runs
    assert "kubelet" not in runs and "kube-apiserver" not in runs


def test_etcd_listens_on_no_abstract_socket_and_no_port(deployed: Operator) -> None:
    process = deployed.say("node1", "systemctl", "show", "--property=MainPID", "--value", "etcd.service")
    for namespace in (process, "1"):
        sockets = deployed.say("node1", "nsenter", f"--net=/proc/{namespace}/ns/net", "cat", "/proc/net/unix")
        names = [line.split()[7] for line in sockets.splitlines()[1:] if len(line.split()) > 7]
        if namespace == process:
            assert not [name for name in names if name.startswith("@")], "an abstract socket in etcd's own namespace"
            assert {"/run/etcd/grpc", "/run/etcd/http"} <= set(names)
        listening = deployed.say("node1", "nsenter", f"--net=/proc/{namespace}/ns/net", "ss", "-Hltnp")
        assert "etcd" not in listening


def test_only_the_group_reaches_etcd(deployed: Operator) -> None:
    ask = "etcdctl --endpoints unix:///run/etcd/grpc --command-timeout 3s get / --prefix --keys-only 2>&1"
    refused = deployed.say("node1", "sh", "-c", f"su -s /bin/sh nobody -c '{ask}'; true")
    assert "permission denied" in refused.lower() or "deadline exceeded" in refused.lower()
    assert deployed.say("node1", "sh", "-c", f"{ask}; echo $?").endswith("0")


def test_each_machine_decrypts_exactly_its_own(deployed: Operator) -> None:
    inventory = load(deployed.workspace.inventory_file)
    files = {path.name for path in deployed.workspace.keys_dir.glob("*.age")}
    for node in inventory.nodes:
        own = {row.file for row in policy.secrets_by_node(inventory, files)[node.name].values()}
        tried = "for f in $(ls -dt /var/lib/smallkube/bundles/*/ | head -1)keys/*.age; do"
        tried += " age -d -i /etc/ssh/ssh_host_ed25519_key $f >/dev/null 2>&1 && basename $f; done; true"
        assert set(deployed.say(node.name, "sh", "-c", tried).split()) == own
