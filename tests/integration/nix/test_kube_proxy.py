"""Proves, with nft in a network namespace, that kube-proxy starts without chains that it would leave empty."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.checks.evaluate import Description
from smallkube.core import process

pytestmark = pytest.mark.integration

Needs = Callable[[str, object, str], None]
ENDPOINT = "endpoint-OMSRNRHP-default/kubernetes/tcp/https__10.88.1.1/6443"
RULES = "ip saddr 10.88.1.1 jump mark-for-masquerade; meta l4proto tcp dnat to 10.88.1.1:6443"
SERVICE = "service-2QRHZV4L-default/kubernetes/tcp/https"
USE = f"numgen random mod 1 vmap {{ 0 : goto {ENDPOINT} }}"


def table(endpoint: str, service: str) -> str:
    """kube-proxy's table with the chains of the Service of the API, named and ordered as 1.34 does."""
    return f"""table ip kube-proxy {{
      comment "rules for kube-proxy"
      map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
      chain mark-for-masquerade {{ mark set mark or 0x4000; }}
      chain {ENDPOINT} {{ {endpoint}; }}
      chain {SERVICE} {{ {service}; }}
      chain nat-prerouting {{ type nat hook prerouting priority dstnat; }}
    }}
    table ip6 kube-proxy {{ chain services {{ ip6 daddr ::2 drop; }}; }}
    """


@pytest.fixture
def after_start(two: dict[str, Description], needs: Needs, tmp_path: Path) -> Callable[[str], tuple[str, str]]:
    """``after_start(rules)``: the rule set ``rules``, and what is left of it when kube-proxy starts."""
    needs("integration", process.find("nft") and os.geteuid() == 0, "nft and root")

    def run(rules: str) -> tuple[str, str]:
        (program,) = [p for p in two["node2"]["scripts"] if p.endswith("-kube-proxy-drop-empty-chains")]
        assert program in two["node2"]["units"]["kube-proxy.service"]["text"]
        script, file = tmp_path / "script", tmp_path / "rules"
        # nft and awk are this machine's.
        script.write_text(two["node2"]["scripts"][program].replace("export PATH=", "PATH_ON_NODES="))
        file.write_text(rules)
        steps = 'nft -f "$2" && nft list ruleset && echo ---- && bash "$1" >&2 && nft list ruleset'
        done = process.run(["unshare", "--net", "sh", "-ec", steps, "sh", script, file])
        assert done.ok, done.stderr
        before, _, after = done.stdout.partition("----\n")
        return before, after

    return run


def test_full_table_of_kube_proxy_is_kept(after_start: Callable[[str], tuple[str, str]]) -> None:
    before, after = after_start(table(RULES, USE))
    assert after == before != ""


def test_table_with_an_empty_chain_in_use_is_dropped(after_start: Callable[[str], tuple[str, str]]) -> None:
    _, after = after_start(table("", USE))
    assert "table ip kube-proxy" not in after
    assert "table ip6 kube-proxy" in after


def test_empty_chain_that_is_left_over_goes_alone(after_start: Callable[[str], tuple[str, str]]) -> None:
    before, after = after_start(table("", ""))
    assert after == before.replace(f"\n\tchain {ENDPOINT} {{\n\t}}\n", "")
    assert ENDPOINT not in after


def test_first_start_of_kube_proxy_has_no_table(after_start: Callable[[str], tuple[str, str]]) -> None:
    assert after_start("table ip other { chain endpoint-x { }; }\n")[1] != ""
