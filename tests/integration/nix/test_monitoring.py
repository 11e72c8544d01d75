"""Proves what cluster.monitoring makes of the nodes: who listens where and for whom, and that promtool accepts it."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.checks.consistency import fleet_complaints, node_complaints
from lab.checks.evaluate import Description
from smallkube.core import process
from smallkube.core.workspace import REPOSITORY

from . import reach
from .conftest import Build, Describe, Tree
from .test_modules import chain
from .test_services import flags, service

pytestmark = pytest.mark.integration

Needs = Callable[[str, object, str], None]
FILES = REPOSITORY / "nix/modules/monitoring"
FOLDER = "smallkube/monitoring"
ON_TUNNEL = (9100, 9153, 9537, 10249)


@pytest.fixture
def monitored(build: Build, describe: Describe) -> dict[str, Description]:
    return describe(build((1, 2, 4), monitoring=True))


@pytest.fixture
def promtool(needs: Needs) -> str:
    program = shutil.which("promtool")
    needs("integration", program, "no promtool: ./setup.sh prometheus")
    assert program is not None
    return program


def etc(description: Description, name: str) -> str:
    """The text of a file under /etc that a module generates."""
    file = description["etc"][name]
    found: str = file["text"] if file["source"] is None else description["files"][file["source"]]
    return found


def scraped(description: Description) -> dict[str, Any]:
    """Job → its configuration."""
    return {job["job_name"]: job for job in json.loads(etc(description, f"{FOLDER}/prometheus.yaml"))["scrape_configs"]}


def targets(job: dict[str, Any]) -> dict[str, list[str]]:
    return {each["labels"]["instance"]: each["targets"] for each in job["static_configs"]}


def test_off_by_default_and_then_nothing_of_it_is_there(two: dict[str, Description], build: Build) -> None:
    assert "monitoring" not in build((1, 2)).files["nix/rendered/cluster.nix"].decode()
    for description in two.values():
        text = json.dumps(description).replace("monitoring.nix", "")
        assert not re.search(r"monitoring|metrics-scraper|9153|9537|10257|10259|prometheus", text)
    for program in ("kube-scheduler", "kube-controller-manager"):
        assert flags(two["node1"], program)["secure-port"] == "0"
    assert flags(two["node2"], "kube-proxy")["metrics-bind-address"] == "[::1]:10249"


def test_nodes_with_metrics_evaluate_and_fit(monitored: dict[str, Description]) -> None:
    for description in monitored.values():
        assert (description["failedAssertions"], description["warnings"], description["unsupported"]) == ([], [], [])
    assert [text for node in monitored.values() for text in node_complaints(node)] == []
    assert fleet_complaints(monitored) == ()


def test_nothing_listens_on_an_address_of_the_machine(monitored: dict[str, Description]) -> None:
    for name, node in monitored.items():
        own = f"10.88.{name[4:]}.1"
        assert flags(node, "kube-proxy")["metrics-bind-address"] == f"{own}:10249"
        assert f"prometheus {own}:9153\n" in corefile(node)
        assert f'metrics_host = "{own}"\nmetrics_port = 9537\n' in etc(node, "crio/crio.conf.d/00-default.conf")
        (exporter,) = service(node, "prometheus-node-exporter")["ExecStart"]
        assert exporter.endswith(f"--collector.systemd --web.listen-address {own}:9100")
    primary = monitored["node1"]
    for program, port in {"kube-scheduler": "10259", "kube-controller-manager": "10257"}.items():
        given = flags(primary, program)
        assert (given["bind-address"], given["secure-port"]) == ("127.0.0.1", port)
    assert "ListenStream=127.0.0.1:2381\n" in primary["units"]["etcd-metrics.socket"]["text"]


def test_with_ipv6_first_addresses_are_in_brackets(build: Build, describe: Describe) -> None:
    node = describe(build((1, 2), monitoring=True, network={"prefer": "ipv6"}))["node2"]
    assert flags(node, "kube-proxy")["metrics-bind-address"] == "[fd88:2::1]:10249"
    assert "prometheus [fd88:2::1]:9153\n" in corefile(node)
    assert 'metrics_host = "fd88:2::1"\n' in etc(node, "crio/crio.conf.d/00-default.conf")
    assert service(node, "prometheus-node-exporter")["ExecStart"][0].endswith(" [fd88:2::1]:9100")


def corefile(description: Description) -> str:
    (words,) = service(description, "coredns")["ExecStart"]
    found: str = description["files"][words.partition("-conf=")[2]]
    return found


def test_etcd_shows_metrics_and_keeps_its_network(monitored: dict[str, Description]) -> None:
    etcd, proxy = (service(monitored["node1"], name) for name in ("etcd", "etcd-metrics"))
    assert (flags(monitored["node1"], "etcd")["listen-metrics-urls"], etcd["PrivateNetwork"]) == (
        "unix://metrics",
        ["true"],
    )
    assert (proxy["Group"], proxy["PrivateNetwork"], proxy["RestrictAddressFamilies"]) == (
        ["etcd"],
        ["true"],
        ["AF_UNIX"],
    )
    assert proxy["ExecStart"][0].endswith("/systemd-socket-proxyd /run/etcd/metrics")
    assert "etcd-metrics.socket" not in monitored["node2"]["units"]


def test_only_the_primary_has_the_key_and_for_its_group(monitored: dict[str, Description]) -> None:
    assert [name for name, node in monitored.items() if "monitoring.key" in node["secrets"]] == ["node1"]
    key = monitored["node1"]["secrets"]["monitoring.key"]
    assert (key["owner"], key["group"], key["mode"]) == ("0", "prometheus", "0440")
    assert "prometheus" in monitored["node1"]["groups"]


def test_the_certificate_is_known_wherever_it_is_shown(monitored: dict[str, Description]) -> None:
    certificate = "throw-away monitoring.crt\n"
    primary = monitored["node1"]
    for node in monitored.values():
        settings = json.loads(node["files"][flags(node, "kubelet")["config"]])
        trusted = node["files"][settings["authentication"]["x509"]["clientCAFile"]]
        assert trusted == f"throw-away kubelet-client.crt\n{certificate}"
    for program in ("kube-scheduler", "kube-controller-manager"):
        given = flags(primary, program)
        assert primary["files"][given["client-ca-file"]] == certificate
        assert given["authentication-skip-lookup"] == "true" and "authentication-kubeconfig" not in given
        assert given["authorization-kubeconfig"] == f"/run/{program}/kubeconfig"


def test_its_rights_are_to_read_metrics() -> None:
    role, binding = yaml.safe_load_all((REPOSITORY / "nix/addons/monitoring.yaml").read_text())
    assert role["rules"] == [
        {"nonResourceURLs": ["/metrics"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
    ]
    assert [(each["kind"], each["name"]) for each in binding["subjects"]] == [("User", "system:metrics-scraper")]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_its_rights_are_applied_and_pruned(monitored: dict[str, Description], two: dict[str, Description]) -> None:
    def activation(nodes: dict[str, Description]) -> str:
        scripts: dict[str, str] = nodes["node1"]["scripts"]
        return next(text for path, text in scripts.items() if path.endswith("-kube-activation"))

    assert re.search(r"apply \S*monitoring\.yaml\n", activation(monitored))
    assert "notin (none,monitoring)" in activation(monitored)
    assert "notin (none)" in activation(two) and "monitoring.yaml" not in activation(two)


def test_every_component_of_every_node_is_scraped(monitored: dict[str, Description]) -> None:
    jobs = scraped(monitored["node1"])
    assert {name: targets(jobs[name]) for name in ("kube-apiserver", "etcd", "kube-scheduler")} == {
        "kube-apiserver": {"node1": ["api.k8s.internal:6443"]},
        "etcd": {"node1": ["127.0.0.1:2381"]},
        "kube-scheduler": {"node1": ["127.0.0.1:10259"]},
    }
    assert targets(jobs["kube-controller-manager"]) == {"node1": ["127.0.0.1:10257"]}
    ports = {"kubelet": 10250, "cadvisor": 10250, "node": 9100, "coredns": 9153, "crio": 9537, "kube-proxy": 10249}
    for name, port in ports.items():
        assert targets(jobs[name]) == {node: [f"{node}.k8s.internal:{port}"] for node in monitored}
    assert len(jobs) == 4 + len(ports)
    assert f"{FOLDER}/prometheus.yaml" not in monitored["node2"]["etc"]


def test_only_loopback_is_scraped_without_verification(build: Build, describe: Describe) -> None:
    for tls in ("pinned", "insecure"):
        jobs = scraped(describe(build((1, 2), monitoring=True, api={"tls": tls}))["node1"])
        unverified = {name for name, job in jobs.items() if job.get("tls_config", {}).get("insecure_skip_verify")}
        loopback = {"kube-scheduler", "kube-controller-manager"}
        assert unverified == (loopback if tls == "pinned" else {*loopback, "kube-apiserver"})
        assert jobs["kubelet"]["tls_config"]["ca_file"] == "/var/lib/kube-identities/kubelets.crt"


def test_a_port_of_metrics_can_not_be_open_to_pods(build: Build, describe: Describe) -> None:
    node = describe(build((1,), monitoring=True, network={"open_to_pods": [9100]}))["node1"]
    assert [text for text in node["failedAssertions"] if "open_to_pods contains a port of monitoring" in text]


def test_ports_are_closed_before_services_open_them(monitored: dict[str, Description]) -> None:
    for node in monitored.values():
        rules = chain(node, "input-allow")
        closed = rules.index("tcp dport { 9100, 9153, 9537, 10249 } reject")
        assert rules[closed - 2 : closed] == [
            'iifname "wgkube" ip6 saddr fd88:1::1 ip6 dscp != 43 tcp dport { 9100, 9153, 9537, 10249 } accept',
            'iifname "wgkube" ip saddr 10.88.1.1 ip dscp != 43 tcp dport { 9100, 9153, 9537, 10249 } accept',
        ]
        assert closed < next(number for number, rule in enumerate(rules) if "ct status dnat" in rule)


def test_only_the_primary_reaches_metrics_of_a_node(build: Build, describe: Describe, needs: Needs) -> None:
    tools = all(process.find(name) for name in ("nft", "ip", "unshare"))
    needs("integration", tools and process.run(["id", "-u"]).stdout.strip() == "0", "nft, ip, unshare and root")
    sources = ("node1", "pod1", "pod2", "lan2", "admin2")
    worker = {(source, address): source == "node1" for source in sources for address in ("10.88.2.1", "fd88:2::1")}
    asked: dict[reach.Probe, bool] = {
        (source, "tcp", address, 9100): answer for (source, address), answer in worker.items()
    }
    asked |= {("node2", "tcp", address, 9100): False for address in ("10.88.1.1", "fd88:1::1", "192.0.2.1")}
    # A Service in front of the port, and what pretends to come from one.
    asked |= {("pod1", "tcp", reach.HOST2, 80): False, ("pod2", "tcp", reach.HOST2, 80): False}
    asked |= {("node1", "tcp", reach.HOST2, 80): False}  # it is the primary, but a Service has translated
    asked |= {("node1", "forged", "10.88.2.1", 9100): True}  # the node clears the mark of its own programs
    nodes = describe(build((1, 2), monitoring=True, api={"allow_from": [reach.ALLOWED_FROM]}))
    assert dict(zip(asked, reach.measure(nodes, [*asked]), strict=True)) == asked


def expressions() -> Iterator[str]:
    """Those of the dashboard, with its variables filled in."""
    for panel in json.loads((FILES / "dashboard.json").read_text())["panels"]:
        for one in panel.get("targets", ()):
            yield one["expr"].replace("$instance", ".*")


def check(promtool: str, *words: str | Path) -> str:
    result = process.run([promtool, *words])
    assert result.ok, result.stdout + result.stderr
    return result.stdout


def test_promtool_accepts_the_configuration(promtool: str, monitored: dict[str, Description], tmp_path: Path) -> None:
    config = json.loads(etc(monitored["node1"], f"{FOLDER}/prometheus.yaml"))
    assert config["rule_files"] == [f"/etc/{FOLDER}/alerts.yaml"]
    key = tmp_path / "key"
    key.touch()
    config["rule_files"] = [str(FILES / "alerts.yaml")]
    for job in config["scrape_configs"]:  # promtool looks whether the files are there
        for name in ("ca_file", "cert_file", "key_file"):
            if job.get("tls_config", {}).get(name):
                job["tls_config"][name] = str(key)
    (tmp_path / "prometheus.yaml").write_text(json.dumps(config))
    assert "SUCCESS: 1 rule files found" in check(promtool, "check", "config", tmp_path / "prometheus.yaml")


def test_promtool_refuses_what_is_wrong(promtool: str, tmp_path: Path) -> None:
    """So the test above can fail."""
    wrong = tmp_path / "prometheus.yaml"
    wrong.write_text(json.dumps({"scrape_configs": [{"job_name": "x", "scheme": "https", "tls_config": {"ca": 1}}]}))
    assert not process.run([promtool, "check", "config", wrong]).ok


def test_promtool_accepts_alerts_and_the_dashboard(promtool: str, tmp_path: Path) -> None:
    check(promtool, "check", "rules", FILES / "alerts.yaml")
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(expressions())]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in check(promtool, "check", "rules", tmp_path / "panels.yaml")


SERIES = {
    "TargetDown": ('up{job="kubelet", instance="node2"}', "0x60", 'instance="node2", job="kubelet"'),
    "PodsPending": ('scheduler_pending_pods{queue="unschedulable"}', "2x60", ""),
    "UnitFailed": (
        'node_systemd_unit_state{name="x.service", state="failed", instance="node2"}',
        "1x60",
        'name="x.service", state="failed", instance="node2"',
    ),
    "EtcdNoLeader": ('etcd_server_has_leader{instance="node1"}', "0x60", 'instance="node1"'),
}
"""Alert → a series by which it fires after half an hour, its values, the labels of the alert besides severity."""


def test_alerts_fire_when_they_should(promtool: str, tmp_path: Path) -> None:
    rules = {
        rule["alert"]: rule
        for group in yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
        for rule in group["rules"]
    }
    tests = []
    for name, (series, values, labels) in SERIES.items():
        found = dict(re.findall(r'(\w+)="([^"]*)"', labels)) | rules[name]["labels"]
        calm = values.replace("0x", "_x") if values.startswith("0") else "0x60"
        for given, fires in ((values, True), (calm, False)):
            test: dict[str, Any] = {"interval": "1m", "input_series": [{"series": series, "values": given}]}
            alert = {"exp_labels": found, "exp_annotations": filled(rules[name]["annotations"], found)}
            test["alert_rule_test"] = [{"eval_time": "30m", "alertname": name, "exp_alerts": [alert] if fires else []}]
            tests.append(test)
    document = {"rule_files": [str(FILES / "alerts.yaml")], "tests": tests}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document))
    check(promtool, "test", "rules", tmp_path / "test.yaml")


def filled(annotations: dict[str, str], labels: dict[str, str]) -> dict[str, str]:
    def fill(text: str) -> str:
        text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: labels[match[1]], text)
        return text.replace("{{ $value }}", "2")

    return {name: fill(text) for name, text in annotations.items()}


def test_every_alert_names_severity_and_action() -> None:
    groups = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "action"}


def test_nixos_prometheus_takes_the_same_jobs(build: Build, describe: Describe) -> None:
    own = "{ services.prometheus.enable = true; }"
    tree: Tree = build((1, 2), monitoring=True).with_file("nix/hosts/node1.nix", own)
    assert describe(tree)["node1"]["unsupported"] == ["services.prometheus.enable"]
