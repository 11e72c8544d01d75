"""Proves how services are set up: etcd out of reach of other processes, credentials named one by one, restarts when a
secret changes, and that no failed service leaves another one down for good."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lab.checks.evaluate import INPUTS, Description
from lab.checks.systemd_text import section
from smallkube.core import process
from smallkube.core.checks import failed
from smallkube.inventory.load import parse
from smallkube.nix.check import check
from smallkube.secrets import policy
from tests import extra_rows

from .conftest import Build, Describe

pytestmark = pytest.mark.integration

Cluster = dict[str, Description]
Needs = Callable[[str, object, str], None]


def service(description: Description, name: str, part: str = "Service") -> dict[str, list[str]]:
    return section(description["units"][f"{name}.service"]["text"], part).keys


def flags(description: Description, name: str) -> dict[str, str]:
    words = service(description, name)["ExecStart"][-1].split()[1:]
    return dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)


def ours(description: Description) -> dict[str, str]:
    theirs = ("nftables.service", "systemd-logind.service", "systemd-networkd.service", "systemd-resolved.service")
    units = description["units"].items()
    return {name: unit["text"] for name, unit in units if name.endswith(".service") and name not in theirs}


def test_etcd_listens_where_only_its_group_can_reach_it(two: Cluster) -> None:
    unit = service(two["node1"], "etcd")
    assert (unit["PrivateNetwork"], unit["WorkingDirectory"]) == (["true"], ["/run/etcd"])
    assert (unit["RuntimeDirectory"], unit["RuntimeDirectoryMode"]) == (["etcd"], ["0750"])
    assert (unit["StateDirectory"], unit["StateDirectoryMode"], unit["UMask"]) == (["etcd"], ["0700"], ["0007"])
    listen = {key: value for key, value in flags(two["node1"], "etcd").items() if key.startswith("listen-")}
    assert listen == {
        "listen-peer-urls": "unix://peer",
        "listen-client-urls": "unix:///run/etcd/grpc",
        "listen-client-http-urls": "unix:///run/etcd/http",
    }


def test_no_peer_socket_becomes_abstract(two: Cluster) -> None:
    """etcd passes on only the host part of a peer URL: an absolute path leaves it empty, which Linux makes abstract."""
    url = flags(two["node1"], "etcd")["listen-peer-urls"]
    host = re.fullmatch(r"unix://([^/]*)(/.*)?", url)
    assert host is not None
    assert host[1]
    assert not host[2]


def test_etcd_keeps_eight_hours_and_starts_again(two: Cluster) -> None:
    unit = service(two["node1"], "etcd")
    assert flags(two["node1"], "etcd")["auto-compaction-retention"] == "8h"
    assert flags(two["node1"], "etcd")["advertise-client-urls"] == "http://localhost:2379"
    assert (unit["Type"], unit["User"], unit["RestartSec"]) == (["notify"], ["etcd"], ["10"])


def test_the_api_server_has_only_the_credentials_it_needs(cluster: Cluster) -> None:
    loaded = service(cluster["node1"], "kube-apiserver")["LoadCredential"]
    names = {credential.split(":")[0] for credential in loaded}
    assert names == {
        "EncryptionConfiguration.yaml",
        "apiserver.key",
        "front-proxy-client.key",
        "issuer.key",
        "kubelet-client.key",
        "kube_token_root",
        "kube_token_system_kube-controller-manager",
        "kube_token_system_kube-scheduler",
    }
    assert all(
        credential == f"{name}:/run/agenix/{name}" for credential in loaded for name in [credential.split(":")[0]]
    )


def test_the_api_servers_flags(two: Cluster) -> None:
    given = flags(two["node1"], "kube-apiserver")
    assert {
        "etcd-servers": "unix:/run/etcd/grpc",
        "secure-port": "6443",
        "anonymous-auth": "false",
        "token-auth-file": "/run/kube-apiserver/tokens.csv",
        "service-cluster-ip-range": "10.88.0.0/24",
        "advertise-address": "10.88.1.1",
        "external-hostname": "test-kube.example.com",
        "service-account-issuer": "https://test-kube.example.com:6443",
        "api-audiences": "api,https://test-kube.example.com:6443",
        "allow-privileged": "true",
    }.items() <= given.items()
    assert set(given["authorization-mode"].split(",")) == {"RBAC", "Node"}
    assert "NodeRestriction" in given["enable-admission-plugins"].split(",")
    unit = service(two["node1"], "kube-apiserver")
    assert (unit["User"], unit["Group"], unit["StateDirectory"]) == (["kube-apiserver"], ["etcd"], ["kube-apiserver"])


def test_a_machines_file_adds_and_replaces_flags(build: Build, describe: Describe) -> None:
    own = '{ kube.apiserver.flags = { profiling = "true"; max-requests-inflight = "200"; }; }'
    given = flags(describe(build((1,)).with_file("nix/hosts/node1.nix", own))["node1"], "kube-apiserver")
    assert (given["profiling"], given["max-requests-inflight"], given["secure-port"]) == ("true", "200", "6443")


def test_requests_are_passed_on_with_a_certificate_of_its_own(two: Cluster) -> None:
    """Aggregated API servers believe the headers of whoever shows this certificate, and of nobody else."""
    given = flags(two["node1"], "kube-apiserver")
    assert {
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-username-headers": "X-Remote-User",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "proxy-client-key-file": "%d/front-proxy-client.key",
    }.items() <= given.items()
    assert given["proxy-client-cert-file"].endswith("front-proxy-client.crt")
    trusted = given["requestheader-client-ca-file"]
    assert two["node1"]["files"][trusted] == "throw-away front-proxy-client.crt\n"
    # The API server never takes one out of the ConfigMap, so that this does, whenever the certificates change.
    (activation,) = [text for path, text in two["node1"]["scripts"].items() if path.endswith("-kube-activation")]
    assert f'!= "$(<{trusted})"' in activation
    assert "enable-aggregator-routing" not in given


def test_every_token_has_its_row_under_the_kubernetes_name(cluster: Cluster) -> None:
    (script,) = [text for path, text in cluster["node1"]["scripts"].items() if path.endswith("-kube-apiserver-tokens")]
    rows = re.findall(r"^row (\S+) (\S+) (\S+)$", script, re.M)
    assert set(rows) == {
        ("kube_token_root", "root", "system:masters"),
        *(
            (f"kube_token_{user.replace(':', '_')}", user, "''")
            for user in ("system:kube-controller-manager", "system:kube-scheduler")
        ),
    }


def test_the_bundle_of_identities_is_no_part_of_the_api_server(build: Build, describe: Describe) -> None:
    tree = build((1, 2))
    before, after = (
        describe(each)["node1"]["units"] for each in (tree, tree.with_file("keys/node_node2.crt", "another\n"))
    )
    assert before["kube-identities.service"] != after["kube-identities.service"]
    assert before["kube-apiserver.service"] == after["kube-apiserver.service"]
    assert flags(describe(tree)["node1"], "kube-apiserver")["client-ca-file"] == "/var/lib/kube-identities/clients.crt"


@pytest.mark.parametrize("program", ["kubelet", "kube-proxy"])
def test_a_kubeconfig_in_the_store_names_its_key(program: str, cluster: Cluster) -> None:
    for node, description in cluster.items():
        word, folder = (
            ("node", "/run/agenix") if program == "kubelet" else (program, f"/run/credentials/{program}.service")
        )
        kubeconfig = json.loads(description["files"][flags(description, program)["kubeconfig"]])
        (user,) = [each["user"] for each in kubeconfig["users"]]
        assert user["client-key"] == f"{folder}/{word}_{node}.key"
        assert user["client-certificate"].endswith(f"{word}_{node}.crt")


def test_new_rows_of_the_policy_reach_the_machines(
    monkeypatch: pytest.MonkeyPatch, build: Build, describe: Describe
) -> None:
    extra_rows.add_to_policy(monkeypatch)
    tree = build((1, 2))
    found = describe(tree)
    (script,) = [text for path, text in found["node1"]["scripts"].items() if path.endswith("-kube-apiserver-tokens")]
    for node in ("node1", "node2"):
        assert f"row kube_token_agent_{node} agent:{node} agents,readers\n" in script
    assert {"kube_token_agent_node1", "kube_token_agent_node2", "agent_node1.key"} <= found["node1"]["secrets"].keys()
    secret = found["node2"]["secrets"]["kube_token_agent_node2"]
    assert (secret["mode"], secret["owner"], secret["group"]) == ("0440", "0", "systemd-network")
    assert failed(check(tree.files, tree.nodes, INPUTS)) == ()


def test_kube_proxy(cluster: Cluster) -> None:
    for name, description in cluster.items():
        n = name.removeprefix("node")
        assert {
            "proxy-mode": "nftables",
            "detect-local-mode": "BridgeInterface",
            "pod-bridge-interface": "brkube",
            "nodeport-addresses": f"fd88:{n}::1/128,10.88.{n}.1/32",
            "healthz-bind-address": "[::1]:10256",
            "metrics-bind-address": "[::1]:10249",
            "hostname-override": f"{name}.k8s.internal",
        }.items() <= flags(description, "kube-proxy").items()
        assert "/nftables/bin" in description["units"]["kube-proxy.service"]["text"]


def test_a_changed_secret_restarts_who_uses_it(cluster: Cluster) -> None:
    for description in cluster.values():
        for name, text in ours(description).items():
            used = set(re.findall(r"/run/agenix/([A-Za-z0-9._-]+)", text))
            triggers = section(text, "Unit").last("X-Restart-Triggers")
            watched = description["files"].get(triggers, "")
            for secret in used:
                assert description["secrets"][secret]["file"] in watched, f"{name} does not notice a new {secret}"


def test_each_unit_of_the_policy_is_restarted_with_its_secret(cluster: Cluster) -> None:
    nodes = {name: {"peer_ip": f"192.0.2.{name.removeprefix('node')}"} for name in cluster}
    inventory = parse(yaml.safe_dump({"cluster": {"name": "test"}, "nodes": nodes}), Path("inventory.yaml"))
    for row in policy.secrets_of(inventory):
        used = set()
        for node in row.readers:
            file = cluster[node]["secrets"][row.name_on(node)]["file"]
            for unit in {f"{unit}.service" for unit in row.units} & cluster[node]["units"].keys():
                triggers = section(cluster[node]["units"][unit]["text"], "Unit").last("X-Restart-Triggers")
                if file in cluster[node]["files"].get(triggers, ""):
                    used.add((node, unit.removesuffix(".service")))
        assert {unit for _, unit in used} == {*row.units}, row.name
        assert {node for node, _ in used} == {*row.readers}, row.name


def test_programs_are_restarted_with_their_key(cluster: Cluster) -> None:
    for node, description in cluster.items():
        for name, key in (("coredns", "coredns"), ("kube-proxy", "kube-proxy"), ("kubelet", "node")):
            triggers = service(description, name, "Unit")["X-Restart-Triggers"][0]
            assert description["secrets"][f"{key}_{node}.key"]["file"] in description["files"][triggers]


def test_no_service_is_bound_to_another_and_each_restarts(cluster: Cluster) -> None:
    for description in cluster.values():
        for name, text in ours(description).items():
            unit, own = section(text, "Unit"), section(text, "Service")
            bound = {"BindsTo", "Requires", "Requisite", "PartOf"} & set(unit.keys)
            # What ends with networkd is started by it again.
            assert bound == ({"PartOf"} if name == "wgkube-handshakes.service" else set()), name
            assert unit.last("StartLimitIntervalSec") == "0", name
            expected = ("on-failure",) if own.last("Type") == "oneshot" else ("always", "on-failure")
            assert own.last("Restart") in expected, name
            assert int(own.last("RestartSec")) > 0, name


def test_what_a_timer_starts_starts_no_other_service(cluster: Cluster) -> None:
    for description in cluster.values():
        services = ours(description)
        for name, text in services.items():
            if name.replace(".service", ".timer") in description["units"]:
                assert not services.keys() & {*section(text, "Unit").words("Wants", "Upholds")}, name


def test_tokens_are_never_arguments(cluster: Cluster) -> None:
    for description in cluster.values():
        texts = [*description["scripts"].values(), *(unit["text"] for unit in description["units"].values())]
        assert not any(re.search(r"--token[= ]|config set-credentials|\$\(cat [^)]*token", text) for text in texts)


def mkkubeconfig(description: Description, folder: Path, token: str) -> process.Result:
    """Run it on ``token``, with what it refers to in the store put into ``folder``; writes ``folder/kubeconfig``."""
    (text,) = [text for path, text in description["scripts"].items() if path.endswith("-mkkubeconfig")]
    for path, content in description["files"].items():
        if path in text:
            (folder / Path(path).name).write_text(content)
            text = text.replace(path, str(folder / Path(path).name))
    (folder / "token").write_text(token)
    argv = ["bash", "-c", text, "mkkubeconfig", folder / "token"]
    return process.run(argv, environment={"KUBECONFIG": str(folder / "kubeconfig")})


@pytest.mark.parametrize("pinned", [True, False])
def test_mkkubeconfig(pinned: bool, build: Build, describe: Describe, needs: Needs, tmp_path: Path) -> None:
    needs("integration", process.find("jq"), "jq")
    tree = build((1, 2), api={"tls": "pinned" if pinned else "insecure"})
    for name in ("apiserver", "apiserver.new") if pinned else ():
        tree = tree.with_file(f"keys/{name}.crt", f"{name} ü\n")
    result = mkkubeconfig(describe(tree)["node2"], tmp_path, "aB3+/=\n")
    assert (result.ok, result.stdout, result.stderr) == (True, "", "")
    assert (tmp_path / "kubeconfig").stat().st_mode & 0o777 == 0o600
    certificates = base64.b64encode("apiserver ü\napiserver.new ü\n".encode()).decode()
    trust = {"certificate-authority-data": certificates} if pinned else {"insecure-skip-tls-verify": True}
    assert yaml.safe_load((tmp_path / "kubeconfig").read_text()) == {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": "https://api.k8s.internal:6443", **trust}}],
        "users": [{"name": "test", "user": {"token": "aB3+/="}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    # The scripts that look for the token in it, also on machines without jq.
    assert re.search(r'^ *"token": "aB3\+/="$', (tmp_path / "kubeconfig").read_text(), re.M)


@pytest.mark.parametrize("token", ["", "two words", "a\nb", 'a"b'])
def test_mkkubeconfig_refuses_what_is_no_token(token: str, two: Cluster, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("previous")
    result = mkkubeconfig(two["node2"], tmp_path, token)
    assert (result.status, "does not hold one token" in result.stderr) == (65, True)
    assert (tmp_path / "kubeconfig").read_text() == "previous"
    assert not list(tmp_path.glob("kubeconfig.*"))


def test_kubelets_without_webhook(build: Build, describe: Describe) -> None:
    description = describe(build((1, 2), kubelet_auth="firewall"))["node2"]
    (text,) = [text for path, text in description["files"].items() if path.endswith("-kubelet.json")]
    assert '"mode":"AlwaysAllow"' in text
    assert '"anonymous":{"enabled":true}' in text


def test_a_machine_may_set_its_kubelet_otherwise(build: Build, describe: Describe) -> None:
    own = '{ kube.kubeletSettings = { maxPods = 250; memorySwap.swapBehavior = "NoSwap"; }; }'
    described = describe(build((1, 2)).with_file("nix/hosts/node2.nix", own))
    texts = {
        node: next(text for path, text in description["files"].items() if path.endswith("-kubelet.json"))
        for node, description in described.items()
    }
    plain, changed = json.loads(texts["node1"]), json.loads(texts["node2"])
    assert (plain["memorySwap"], plain.get("maxPods")) == ({"swapBehavior": "LimitedSwap"}, None)
    assert (changed["memorySwap"], changed["maxPods"]) == ({"swapBehavior": "NoSwap"}, 250)
    assert changed["clusterDomain"] == plain["clusterDomain"]


def test_a_machine_may_override_defaults_without_force(build: Build, describe: Describe) -> None:
    own = """{
      systemd.services.etcd.serviceConfig = { RestartSec = 30; ProtectHome = "read-only"; };
      systemd.services.etcd.startLimitIntervalSec = 60;
      systemd.services.kubelet.serviceConfig.OOMScoreAdjust = -500;
      systemd.services.coredns.serviceConfig.RestartSec = 1;
      boot.kernel.sysctl."net.ipv6.conf.all.forwarding" = 2;
    }"""
    description = describe(build((1, 2)).with_file("nix/hosts/node1.nix", own))["node1"]
    etcd = service(description, "etcd")
    assert (etcd["RestartSec"], etcd["Restart"], etcd["ProtectHome"]) == (["30"], ["always"], ["read-only"])
    assert service(description, "etcd", "Unit")["StartLimitIntervalSec"] == ["60"]
    assert service(description, "kubelet")["OOMScoreAdjust"] == ["-500"]
    assert service(description, "coredns")["RestartSec"] == ["1"]
    assert description["sysctl"]["net.ipv6.conf.all.forwarding"] == "2"


def test_a_rotation_in_progress_accepts_both_tokens(build: Build, describe: Describe) -> None:
    tree = build((1, 2))
    old = '"kube_token_root.old" = ../../keys/kube_token_root.old.age;\n  kube_token_root ='
    tree = tree.replacing("nix/rendered/node1.nix", "kube_token_root =", old)
    description = describe(tree.with_file("keys/kube_token_root.old.age", "old"))["node1"]
    (script,) = [text for path, text in description["scripts"].items() if path.endswith("-kube-apiserver-tokens")]
    for secret in ("kube_token_root", "kube_token_root.old"):
        assert re.search(rf"^row {re.escape(secret)} root system:masters$", script, re.M)


@pytest.mark.parametrize("previous", [True, False])
def test_nodes_get_their_roles_and_the_standard_taint(previous: bool, two: Cluster, tmp_path: Path) -> None:
    (script,) = [text for path, text in two["node1"]["scripts"].items() if path.endswith("-kube-node-roles")]
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\ncase "$*" in *jsonpath=*) echo {"primary" * previous};; esac'
    )
    kubectl.chmod(0o755)
    text = script.replace("export PATH=", f"PATH={tmp_path}:$PATH\nPATH_ON_NODES=")
    assert process.run(["bash", "-c", text], environment={"STATE_DIRECTORY": str(tmp_path)}).ok
    changes = re.findall(r"(?:label|taint) .*?(?= --output|$)", (tmp_path / "calls").read_text(), re.MULTILINE)
    role, node = "node-role.kubernetes.io/control-plane", "node1.k8s.internal"
    restricted = "node-restriction.kubernetes.io/role"
    taints = [f"taint --overwrite node {node} {role}=:NoSchedule", f"taint node {node} role:NoSchedule-"]
    assert changes == [
        f"label --overwrite node {node} {role}= {restricted}=primary",
        *(taints if previous else []),
        f"label --overwrite nodes --selector=!{role} {restricted}=worker",
    ]


def test_roles_are_set_again_for_nodes_that_join_later(two: Cluster) -> None:
    assert service(two["node1"], "kube-node-roles")["RemainAfterExit"] == ["false"]
    timer = two["node1"]["units"]["kube-node-roles.timer"]
    assert section(timer["text"], "Timer").keys == {"OnUnitInactiveSec": ["5min"], "AccuracySec": ["1s"]}
    assert timer["wantedBy"] == ["timers.target"]


@pytest.mark.parametrize(("tries", "calls"), [(1, "apply apply apply"), (2, "apply wait apply apply apply")])
def test_an_addon_may_define_the_kind_of_its_objects(tries: int, calls: str, two: Cluster, tmp_path: Path) -> None:
    (script,) = [text for path, text in two["node1"]["scripts"].items() if path.endswith("-kube-activation")]
    kubectl, log = tmp_path / "kubectl", tmp_path / "calls"
    kubectl.write_text(
        '#!/bin/sh\ncase "$*" in *" delete "* | *" get daemonsets "*) exit 0 ;; esac\n'
        f'echo "$@" | grep -o -w -e apply -e wait >>{log}\n'
        f"[ $(grep -c apply {log}) -ge {tries} ]"
    )
    kubectl.chmod(0o755)
    script = re.sub(r"\S+/bin/kube-identities-publish", "true", script)
    (trusted,) = [path for path in two["node1"]["files"] if path.endswith("-trusted.crt") and path in script]
    (tmp_path / "trusted.crt").write_text(two["node1"]["files"][trusted])  # an evaluation alone writes no file
    script = script.replace(trusted, str(tmp_path / "trusted.crt"))
    assert process.run(["bash", "-c", script.replace("export PATH=", f"PATH={tmp_path}:$PATH\nPATH_ON_NODES=")]).ok
    assert log.read_text().split() == calls.split()


def test_addons_are_the_primarys(build: Build, describe: Describe, two: Cluster) -> None:
    (script,) = [text for path, text in two["node1"]["scripts"].items() if path.endswith("-kube-activation")]
    assert "--server-side --force-conflicts" in script
    tree = build((1, 2)).replacing(
        "nix/hosts/node2.nix", "nixpkgs.hostPlatform", "kube.addons = [ ./x.yaml ];\n  nixpkgs.hostPlatform"
    )
    failed = describe(tree.with_file("nix/hosts/x.yaml", "{}"))["node2"]["failedAssertions"]
    assert any("addons" in message for message in failed)
