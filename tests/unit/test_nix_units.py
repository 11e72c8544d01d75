"""Which units count as the same for systemd-analyze: those that differ in what it does not look into."""

import pytest

from smallkube.nix.units import shape, with_stubs


def units(index: int, store: str = "a", exec_: str = "ExecStart") -> dict[str, str]:
    lines = [
        f"X-Restart-Triggers=/nix/store/{store * 32}-triggers",
        f"LoadCredential=coredns_node{index}.key:/run/agenix/coredns_node{index}.key",
        f"{exec_}=+/nix/store/{store * 32}-kubelet/bin/kubelet --node-ip=10.88.{index}.1,fd88:{index}::1 node{index}.x",
    ]
    return {"kubelet.service": with_stubs("\n".join(("[Service]", *lines)), dropin=False)}


def test_nodes_with_the_same_units_have_one_shape() -> None:
    assert shape(units(2)) == shape(units(117, store="b"))


@pytest.mark.parametrize(
    "line",
    [
        "IPAddressAllow=10.88.{}.0/24",
        "After=node{}.service",
        "ExecStart=/bin/x ${{a{}",
        "LoadCredential=a{}:b",
        "X{}=1",
    ],
)
def test_what_systemd_looks_into_makes_a_difference(line: str) -> None:
    one, other = ({"a.service": with_stubs(f"[Service]\n{line.format(index)}", dropin=False)} for index in (1, 300))
    assert shape(one) != shape(other)


def test_names_and_number_of_units_make_a_difference() -> None:
    one = units(2)
    assert shape(one) != shape({**one, "b.service": ""}) != shape({"b.service": one["kubelet.service"]})


def test_programs_are_replaced_by_one_that_exists() -> None:
    assert "\nExecStart=+/bin/true --node-ip=10.88.2.1,fd88:2::1 node2.x" in units(2)["kubelet.service"]
    assert with_stubs("[Service]\nNice=1", dropin=True).endswith("\n[Service]\nExecStart=/bin/true\n")
