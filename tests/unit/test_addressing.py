"""Proves the address plan: subnets of different nodes never meet, and every host lies in its own subnet."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from smallkube.inventory.addressing import Addressing

indices = st.integers(min_value=1, max_value=254)


def test_the_plan_of_node_2() -> None:
    plan = Addressing()
    assert plan.cidr6(2) == "fd88:2::/32"
    assert plan.cidr4(2) == "10.88.2.0/24"
    assert (plan.host6(2), plan.host4(2)) == ("fd88:2::1", "10.88.2.1")
    assert plan.node_host(2) == "node2.k8s.internal"
    assert [str(network) for network in plan.networks] == ["fd88::/16", "10.88.0.0/16"]
    assert plan.api_service_ip == "10.88.0.1"
    assert plan.api_internal_host == "api.k8s.internal"


@given(indices, indices)
def test_subnets_are_disjoint_and_inside_the_cluster(one: int, other: int) -> None:
    plan = Addressing()
    v6, v4 = plan.networks
    for cidr, cluster, host in ((plan.cidr6, v6, plan.host6), (plan.cidr4, v4, plan.host4)):
        network = ipaddress.ip_network(cidr(one))
        assert ipaddress.ip_address(host(one)) in network
        assert network.subnet_of(cluster)  # type: ignore[arg-type]
        assert network.overlaps(ipaddress.ip_network(cidr(other))) == (one == other)
        assert not network.overlaps(ipaddress.ip_network(plan.cidr4(0)))


@given(
    st.sampled_from(["ipv4", "ipv6"]), st.integers(12, 29), st.integers(min_value=0), st.none() | st.integers(108, 125)
)
def test_services_have_a_range_a_family_in_the_chosen_order(prefer: str, size: int, at: int, six: int | None) -> None:
    space = ipaddress.IPv4Network("10.0.0.0/8")
    own = ipaddress.IPv4Network((int(space.network_address) + at % 2**24 & ~(2 ** (32 - size) - 1), size))
    plan = Addressing(prefer=prefer, services4=str(own), services6=f"fd88::/{six}" if six else "")
    ranges = [ipaddress.ip_network(cidr) for cidr in plan.services]
    versions = [4, 6] if prefer == "ipv4" else [6, 4]
    assert [each.version for each in ranges] == (versions if six else [4])
    api = ipaddress.ip_address(plan.api_service_ip)
    assert api == next(iter(ranges[0].hosts()))
    assert all(any(each.overlaps(whole) for whole in plan.networks) for each in ranges)
    assert (own in plan.networks[2:]) == (not own.subnet_of(ipaddress.IPv4Network("10.88.0.0/16")))
