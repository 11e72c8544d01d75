"""Proves that docs/security.md says of each check of the CIS Kubernetes Benchmark what the configuration comes to.

Numbers and conditions are those of kube-bench (aquasecurity/kube-bench at a73ce378, cfg/cis-1.12, for Kubernetes 1.32
to 1.34). What no configuration decides must be called "n/a" or "yours" there.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from lab.checks.evaluate import Description
from smallkube.core.workspace import REPOSITORY

from .test_services import flags, service

pytestmark = pytest.mark.integration

GROUPS = {"1.1": 21, "1.2": 30, "1.3": 7, "1.4": 2, "2": 7, "3.1": 3, "3.2": 2, "4.1": 10, "4.2": 14, "4.3": 1,
          "5.1": 13, "5.2": 12, "5.3": 2, "5.4": 2, "5.5": 1, "5.6": 4}  # fmt: skip
"""Number of checks in each group."""
OPEN = ("n/a", "yours")

Flags = Mapping[str, str]
Condition = Callable[[Flags], bool]


def given(*names: str) -> Condition:
    return lambda found: all(name in found for name in names)


def absent(*names: str) -> Condition:
    return lambda found: not any(name in found for name in names)


def equal(name: str, value: str) -> Condition:
    return lambda found: found.get(name) == value


def listed(name: str, word: str) -> Condition:
    return lambda found: word in found.get(name, "").split(",")


def unlisted(name: str, word: str) -> Condition:
    return lambda found: word not in found.get(name, "").split(",")


def at_least(name: str, number: int) -> Condition:
    return lambda found: int(found.get(name, "0")) >= number


def only(name: str, pattern: str) -> Condition:
    return lambda found: re.fullmatch(rf"{pattern}(,{pattern})*", found.get(name, "")) is not None


PLUGINS, MODES = "enable-admission-plugins", "authorization-mode"
STRONG = r"TLS_ECDHE_(ECDSA|RSA)_WITH_(AES_128_GCM_SHA256|AES_256_GCM_SHA384)"
BY_FLAGS: Mapping[str, Mapping[str, Condition]] = {
    "kube-apiserver": {
        "1.2.1": equal("anonymous-auth", "false"),
        "1.2.2": absent("token-auth-file"),
        "1.2.3": listed(PLUGINS, "DenyServiceExternalIPs"),
        "1.2.4": given("kubelet-client-certificate", "kubelet-client-key"),
        "1.2.5": given("kubelet-certificate-authority"),
        "1.2.6": unlisted(MODES, "AlwaysAllow"),
        "1.2.7": listed(MODES, "Node"),
        "1.2.8": listed(MODES, "RBAC"),
        "1.2.9": listed(PLUGINS, "EventRateLimit"),
        "1.2.10": unlisted(PLUGINS, "AlwaysAdmit"),
        "1.2.11": listed(PLUGINS, "AlwaysPullImages"),
        "1.2.12": unlisted("disable-admission-plugins", "ServiceAccount"),
        "1.2.13": unlisted("disable-admission-plugins", "NamespaceLifecycle"),
        "1.2.14": listed(PLUGINS, "NodeRestriction"),
        "1.2.15": equal("profiling", "false"),
        "1.2.16": given("audit-log-path"),
        "1.2.17": at_least("audit-log-maxage", 30),
        "1.2.18": at_least("audit-log-maxbackup", 10),
        "1.2.19": at_least("audit-log-maxsize", 100),
        "1.2.20": absent("request-timeout"),
        "1.2.21": absent("service-account-lookup"),
        "1.2.22": given("service-account-key-file"),
        "1.2.23": given("etcd-certfile", "etcd-keyfile"),
        "1.2.24": given("tls-cert-file", "tls-private-key-file"),
        "1.2.25": given("client-ca-file"),
        "1.2.26": given("etcd-cafile"),
        "1.2.27": given("encryption-provider-config"),
        "1.2.28": given("encryption-provider-config"),  # of secretbox: tests/unit/test_encryption.py
        "1.2.29": only("tls-cipher-suites", STRONG),
        "1.2.30": equal("service-account-extend-token-expiration", "false"),
        "3.1.1": absent("client-ca-file"),
        "3.1.3": absent("enable-bootstrap-token-auth"),
        "3.2.1": given("audit-policy-file"),
        "3.2.2": given("audit-policy-file"),
        "5.5.1": listed(PLUGINS, "ImagePolicyWebhook"),
    },
    "kube-controller-manager": {
        "1.3.1": given("terminated-pod-gc-threshold"),
        "1.3.2": equal("profiling", "false"),
        "1.3.3": equal("use-service-account-credentials", "true"),
        "1.3.4": given("service-account-private-key-file"),
        "1.3.5": given("root-ca-file"),
        "1.3.6": absent("feature-gates"),
        "1.3.7": equal("secure-port", "0"),
    },
    "kube-scheduler": {"1.4.2": equal("secure-port", "0")},
    "etcd": {
        "2.1": given("cert-file", "key-file"),
        "2.2": equal("client-cert-auth", "true"),
        "2.3": absent("auto-tls"),
        "2.4": given("peer-cert-file", "peer-key-file"),
        "2.5": equal("peer-client-cert-auth", "true"),
        "2.6": absent("peer-auto-tls"),
        "2.7": given("trusted-ca-file"),
    },
    "kubelet": {"4.2.7": absent("hostname-override")},
    "kube-proxy": {"4.3.1": equal("metrics-bind-address", "[::1]:10249")},
}


def configured(found: Description, suffix: str) -> str:
    texts: Mapping[str, str] = found["files"]
    return next(text for path, text in texts.items() if path.endswith(suffix))


def of_kubelet(found: Description) -> Iterator[tuple[str, bool]]:
    """By its configuration file; a field that is not there has the safe default."""
    config: dict[str, Any] = json.loads(configured(found, "-kubelet.json"))
    yield "4.2.1", config["authentication"]["anonymous"]["enabled"] is False
    yield "4.2.2", config["authorization"]["mode"] == "Webhook"
    yield "4.2.3", bool(config["authentication"]["x509"]["clientCAFile"])
    yield "4.2.4", config.get("readOnlyPort", 0) == 0
    yield "4.2.5", config.get("streamingConnectionIdleTimeout", "4h") not in (0, "0", "0s")
    yield "4.2.6", config.get("makeIPTablesUtilChains", True)
    yield "4.2.8", config.get("eventRecordQPS", 50) >= 0
    yield "4.2.9", bool(config["tlsCertFile"] and config["tlsPrivateKeyFile"])
    yield "4.2.10", config.get("rotateCertificates", True)
    yield "4.2.11", "featureGates" not in config
    yield "4.2.12", all(re.fullmatch(STRONG, suite) for suite in config.get("tlsCipherSuites", [""]))
    yield "4.2.13", config.get("podPidsLimit", 0) > 0
    yield "4.2.14", config.get("seccompDefault", False)
    yield "5.6.2", config.get("seccompDefault", False)


def of_files(found: Description) -> Iterator[tuple[str, bool]]:
    """By owner and mode. What is in the Nix store is root's, and readable by all."""
    kubeconfigs = ("generate-kubeconfig-root", "kube-scheduler", "kube-controller-manager")
    private = {name: service(found, name).get("UMask") == ["0077"] for name in kubeconfigs}
    owner = {name: "User" not in service(found, name) and "DynamicUser" not in service(found, name) for name in private}
    secrets = [secret for name, secret in found["secrets"].items() if name.endswith(".key") and name != "wgkube.key"]
    data = service(found, "etcd")
    yield "1.1.9", found["etc"]["cni/net.d/10-crio-bridge.conflist"]["mode"] == "0600"
    yield "1.1.10", found["etc"]["cni/net.d/10-crio-bridge.conflist"]["user"] in ("root", "0")
    yield "1.1.11", data["StateDirectoryMode"] == ["0700"]
    yield "1.1.12", (data["User"], data["Group"]) == (["etcd"], ["etcd"])
    yield "1.1.13", private["generate-kubeconfig-root"]
    yield "1.1.14", owner["generate-kubeconfig-root"]
    yield "1.1.15", private["kube-scheduler"]
    yield "1.1.16", owner["kube-scheduler"]
    yield "1.1.17", private["kube-controller-manager"]
    yield "1.1.18", owner["kube-controller-manager"]
    yield "1.1.19", all((secret["owner"], secret["group"]) == ("0", "0") for secret in secrets)
    yield "1.1.20", flags(found, "kube-apiserver")["tls-cert-file"].startswith("/nix/store/")
    yield "1.1.21", all(secret["mode"] == "0400" for secret in secrets)
    yield from ((check, False) for check in ("4.1.1", "4.1.9"))  # of mode 0600: a unit, and what it names in the store
    yield from ((check, flags(found, "kubelet")["config"].startswith("/nix/store/")) for check in ("4.1.2", "4.1.10"))
    # Without a secret; readable by all, as everything in the store, and not changeable.
    yield from ((check, False) for check in ("4.1.3", "4.1.5"))
    in_store = [flags(found, unit)["kubeconfig"].startswith("/nix/store/") for unit in ("kube-proxy", "kubelet")]
    yield from zip(("4.1.4", "4.1.6"), in_store, strict=True)
    authorities = json.loads(configured(found, "-kubelet.json"))["authentication"]["x509"]["clientCAFile"]
    yield from ((check, authorities.startswith("/nix/store/")) for check in ("4.1.7", "4.1.8"))


def of_rights(found: Description) -> Iterator[tuple[str, bool]]:
    """By what users, pods and namespaces get."""
    (tokens,) = [text for path, text in found["scripts"].items() if path.endswith("-kube-apiserver-tokens")]
    admission = found["files"].get(flags(found, "kube-apiserver").get("admission-control-config-file", ""), "")
    level = re.search(r"\benforce\b\W+(privileged|baseline|restricted)\b", admission)
    enforced = level[1] if level else "privileged"
    network = json.loads(configured(found, "-10-crio-bridge.conflist"))
    yield "1.4.1", json.loads(configured(found, "-kube-scheduler.json"))["enableProfiling"] is False
    yield "5.1.7", "system:masters" not in tokens
    for check in (1, 2, 3, 4, 5, 8, 11, 12):
        yield f"5.2.{check}", enforced in ("baseline", "restricted")
    for check in (6, 7, 9):
        yield f"5.2.{check}", enforced == "restricted"
    yield "5.3.1", any(plugin["type"] != "bridge" for plugin in network["plugins"])


def decided(found: Description) -> dict[str, bool]:
    by_flags = {
        check: condition(flags(found, unit))
        for unit, conditions in BY_FLAGS.items()
        for check, condition in conditions.items()
    }
    return by_flags | dict(of_kubelet(found)) | dict(of_files(found)) | dict(of_rights(found))


def said() -> dict[str, str]:
    """Verdict by check, as the table has it: one row for each check, or for several of one group (1.1.1–1.1.8)."""
    text = (REPOSITORY / "docs/security.md").read_text()
    table = text.partition("\n## CIS Kubernetes Benchmark\n")[2].partition("\n## ")[0]
    verdicts: dict[str, str] = {}
    for checks, verdict in re.findall(r"^\| (\d[\d., –]*) \| (\S+) \|", table, re.MULTILINE):
        for first, last in re.findall(r"([\d.]+)(?:–([\d.]+))?", checks):
            group, _, number = first.rpartition(".")
            for one in range(int(number), int((last or first).rpartition(".")[2]) + 1):
                assert f"{group}.{one}" not in verdicts, f"{group}.{one} is there twice"
                verdicts[f"{group}.{one}"] = verdict
    return verdicts


def test_every_check_has_a_verdict() -> None:
    expected = {f"{group}.{number}" for group, count in GROUPS.items() for number in range(1, count + 1)}
    assert said().keys() == expected
    assert set(said().values()) <= {"pass", "fail", *OPEN}


def test_verdicts_are_what_the_configuration_comes_to(two: dict[str, Description]) -> None:
    found = decided(two["node1"])
    verdicts = said()
    wrong = {check: verdicts[check] for check, ok in found.items() if verdicts[check] != ("pass" if ok else "fail")}
    assert wrong == {}
    assert {check: verdict for check, verdict in verdicts.items() if check not in found and verdict not in OPEN} == {}
    assert "staticPodPath" not in configured(two["node1"], "-kubelet.json"), "1.1.1 to 1.1.8"


def test_workers_differ_from_the_primary_in_no_check(two: dict[str, Description]) -> None:
    assert dict(of_kubelet(two["node2"])) == dict(of_kubelet(two["node1"]))
    for unit in ("kubelet", "kube-proxy"):
        for condition in BY_FLAGS[unit].values():
            assert condition(flags(two["node2"], unit)) == condition(flags(two["node1"], unit))
