"""Proves that a valid inventory is read with its defaults, and that a bad one gives one clear line for each fault."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from smallkube.core.errors import ErrorGroup, SmallkubeError, UsageError
from smallkube.core.workspace import REPOSITORY
from smallkube.inventory import positions
from smallkube.inventory.load import json_schema, load
from smallkube.inventory.models import Inventory
from smallkube.inventory.sections import Api

LEAST = """\
cluster:
  name: demo
nodes:
  node1:
    peer_ip: 192.168.0.1
  node2:
    peer_ip: 192.168.0.2
"""


def read(tmp_path: Path, text: str | bytes) -> Inventory:
    file = tmp_path / "inventory.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(file)


def complaint(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(SmallkubeError) as caught:
        read(tmp_path, text)
    assert caught.value.exit_status == 2
    return str(caught.value)


def test_the_least_inventory_has_every_default(tmp_path: Path) -> None:
    inventory = read(tmp_path, LEAST)
    assert inventory.cluster.kubernetes == "1.34"
    assert inventory.cluster.api.port == 6443
    assert inventory.cluster.network.prefix6 == "fd88"
    assert inventory.cluster.secrets.encrypted_resources == ("secrets",)
    assert inventory.cluster.backup.keep.daily == 14
    assert inventory.primary.ssh.host == "192.168.0.1"
    assert [(node.name, node.index, node.role) for node in inventory.nodes] == [
        ("node1", 1, "primary"),
        ("node2", 2, "worker"),
    ]


def test_the_example_of_the_repository_is_valid() -> None:
    assert load(REPOSITORY / "inventory.yaml").cluster.name == "demo"


def test_nodes_are_ordered_by_index_and_may_have_holes(tmp_path: Path) -> None:
    text = "cluster: {name: x}\nnodes:\n  node12: {peer_ip: 10.0.0.12}\n  node3: {peer_ip: 10.0.0.3}\n"
    inventory = read(tmp_path, text + "  node1: {peer_ip: 2001:db8::1}\n")
    assert [node.index for node in inventory.nodes] == [1, 3, 12]


def test_every_problem_is_reported_at_once_with_line_and_key(tmp_path: Path) -> None:
    text = """\
cluster:
  name: demo
  kubernetes: 1.34
  api:
    prot: 6443
    tls: maybe
nodes:
  node2:
    peer_ip: 192.168.0.300
  node3:
    peer_ip: 10.88.3.3
  master:
    peer_ip: 10.0.0.1
"""
    lines = complaint(tmp_path, text).splitlines()
    assert lines[0].startswith("inventory.yaml:3: cluster.kubernetes: must be text; put it in quotes")
    assert lines[1] == "inventory.yaml:5: cluster.api.prot: unknown key"
    assert lines[2].startswith("inventory.yaml:6: cluster.api.tls:")
    assert lines[3] == "inventory.yaml:7: nodes: node1 is missing: it is the primary"
    assert lines[4].startswith("inventory.yaml:9: nodes.node2.peer_ip:")
    assert lines[5].startswith("inventory.yaml:12: nodes.master:")
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("192.168.0.2", "192.168.0.1"), "inventory.yaml:7: nodes.node2.peer_ip: 192.168.0.1 is node1's address"),
        (("192.168.0.2", "10.88.2.2"), "is in the cluster's own network 10.88.0.0/16"),
        (("192.168.0.2", "fd88:2::2"), "is in the cluster's own network fd88::/16"),
        (("192.168.0.2", "127.0.0.1"), "not an address that other machines can reach"),
        (("192.168.0.2", "fe80::1%eth0"), "not an address that other machines can reach"),
        (("node2", "node0"), "a node is named nodeN"),
        (("node2", "node02"), "a node is named nodeN"),
        (("node2", "node255"), "a node is named nodeN"),
        (("node2", "node1"), "inventory.yaml:6: node1: duplicate key; first defined on line 4"),
        (("name: demo", "name: demo\n  domain: kube.local"), ".local belongs to multicast DNS"),
        (
            ("name: demo", "name: demo\n  secrets: {node_tokens: separate}"),
            "inventory.yaml:3: cluster.secrets.node_tokens: no longer a setting, nodes have certificates instead of",
        ),
        (
            ("name: demo", f"name: demo\n  domain: {'d' * 37}.org"),
            "inventory.yaml:3: cluster.domain: ddddddddddddddddddddddddddddddddddddd.org is too long: 40 characters at",
        ),
        (("name: demo", "name: demo\n  addons: [../x.yaml]"), "must be a path inside the workspace"),
        (("name: demo", "name: demo\n  addons: [x.yaml]"), "x.yaml: no such file in the workspace"),
        (("name: demo", "name: demo\n  addons: [my/x]"), "my/x: no such file in the workspace"),
        (
            ("name: demo", "name: demo\n  addons: [metric-server]"),
            "inventory.yaml:3: cluster.addons.0: metric-server is not in the catalogue (local-path, metrics-",
        ),
        (("name: demo", "name: demo\n  network: {prefix4: '8.8'}"), "not a private range"),
        (("name: demo", "name: demo\n  network: {prefix6: '2001'}"), "cluster.network.prefix6"),
        (("name: demo", "name: demo\n  network: {prefer: ipv5}"), "network.prefer: must be 'ipv4' or 'ipv6'"),
        (
            ("name: demo", "name: demo\n  network: {services4: 10.88.2.0/24}"),
            "services4: 10.88.2.0/24 overlaps the subnets",
        ),
        (
            ("name: demo", "name: demo\n  network: {services4: 10.88.0.0/20}"),
            "a part of 10.88.0.0/24, or a range outside",
        ),
        (("name: demo", "name: demo\n  network: {services4: 10.96.0.0/11}"), "10.96.0.0/11 must be of /12 to /29"),
        (("name: demo", "name: demo\n  network: {services4: 10.88.0.0/30}"), "10.88.0.0/30 must be of /12 to /29"),
        (
            ("name: demo", "name: demo\n  network: {services4: 9.9.0.0/16}"),
            "9.9.0.0/16 is not in a private range (10.0.0.0/8",
        ),
        (("name: demo", "name: demo\n  network: {services4: 10.96.0.1/16}"), "services4: 10.96.0.1/16 has host bits"),
        (("name: demo", "name: demo\n  network: {services4: 'fd88::/112'}"), "cluster.network.services4: "),
        (
            ("name: demo", "name: demo\n  network: {services4: 192.168.0.0/24}"),
            "192.168.0.1 is in the cluster's own network",
        ),
        (
            ("name: demo", "name: demo\n  network: {services4: 10.96.0.0/16, private: [10.0.0.0/8]}"),
            "overlaps the cluster's own network 10.96.0.0/16",
        ),
        (("name: demo", "name: demo\n  network: {services6: 10.96.0.0/16}"), "cluster.network.services6: "),
        (
            ("name: demo", "name: demo\n  network: {services6: 'fd88:1::/112'}"),
            "must be a part of fd88::/32, of /108 to /125",
        ),
        (("name: demo", "name: demo\n  network: {services6: 'fd88::/64'}"), "of /108 to /125"),
        (("name: demo", "name: demo\n  network: {services6: 'fd88::/126'}"), "of /108 to /125"),
        (("name: demo", "name: demo\n  network: {mtu: 1000}"), "cluster.network.mtu: must be at least 1280"),
        (("name: demo", "name: demo\n  network: {mtu: 65456}"), "cluster.network.mtu: must be at most 65455"),
        (("name: demo", "name: demo\n  network: {mtu: '1420'}"), "cluster.network.mtu: must be a whole number"),
        (("name: demo", "name: demo\n  api: {tls: maybe}"), "cluster.api.tls: must be 'pinned' or 'insecure'"),
        (("name: demo", "name: demo\n  backup: {dir: ''}"), "cluster.backup.dir: too short (at least 1)"),
        (("name: demo", f"name: demo\n  domain: {'a.' * 126}com"), "cluster.domain: too long (at most 253)"),
        (("name: demo", "name: demo\n  secrets: {encrypted_resources: []}"), "resources: too short (at least 1)"),
        (("name: demo", "name: demo\n  network: {private: [10.88.3.0/24]}"), "overlaps the cluster's own network"),
        (("name: demo", "name: demo\n  api: {port: 10250}"), "the kubelet's port"),
        (("name: demo", "name: demo\n  network: {open_to_pods: [9100, 10250]}"), "stays closed to pods"),
        (("name: demo", "name: demo\n  network: {node_ports: []}"), "node_ports: too short (at least 1)"),
        (("name: demo", "name: demo\n  network: {node_ports: [wan]}"), "node_ports.0: must be 'tunnel' or 'lan'"),
        (
            ("name: demo", "name: demo\n  pod_security: {enforce: none}"),
            "must be 'privileged', 'baseline' or 'restricted'",
        ),
        (("name: demo", "name: demo\n  pod_security: {exempt_namespaces: [A]}"), "exempt_namespaces.0: does not have"),
        (("name: demo", "name: demo\n  api: {previous_issuers: ['http://a:1']}"), "previous_issuers.0: does not have"),
        (("name: demo", "name: demo\n  api: {previous_issuers: ['https://a,b:1']}"), "previous_issuers.0: does not"),
        (("name: demo", "name: demo\n  api: {allow_from: [10.0.0.1/8]}"), "cluster.api.allow_from.0: "),
        (
            ("name: demo", 'name: demo\n  api: {allow_from: ["fe80::%x tcp dport 1-65535 accept comment a/64"]}'),
            "inventory.yaml:3: cluster.api.allow_from.0: fe80::%x tcp dport 1-65535 accept comment a/64 has a zone",
        ),
        (
            ("name: demo", "name: demo\n  network: {private: ['fe80::%eth0/64']}"),
            "network.private.0: fe80::%eth0/64 has",
        ),
        (("192.168.0.2", "2001:db8::1%eth0"), "has a zone"),
        (("192.168.0.2\n", "192.168.0.2\n    ssh: {host: 'fe80::1%$(id)'}\n"), "zone is not the name of a network"),
        (("name: demo", 'name: demo\n  backup: {dir: "a\\0b"}'), "inventory.yaml:3: holds a control character"),
        (("name: demo", 'name: demo\n  backup: {dir: "a\\eb"}'), "inventory.yaml:3: holds a control character"),
        (("name: demo", "name: demo; rm -rf /"), "cluster.name"),
        (("name: demo", "name: '${x}'"), "cluster.name"),
        (("name: demo", 'name: "a\\nb"'), "cluster.name"),
        (("name: demo", "name: dëmo"), "cluster.name"),
        (("name: demo", "name: [demo]"), "must be text"),
        (("name: demo", "nam: demo"), "cluster.nam: unknown key"),
        (
            (
                "demo\nnodes:\n  node1:\n",
                "demo\n  network: {services4: 172.16.0.0/16}\nnodes:\n  node1:\n    ssh: {host: 172.16.0.9}\n",
            ),
            "nodes.node1.ssh: 172.16.0.9 is in 172.16.0.0/16, which is the Services'",
        ),
        (("peer_ip: 192.168.0.2", "tags: [a]"), "nodes.node2.peer_ip: this key is missing"),
        (("peer_ip: 192.168.0.2", "peer_ip: 192.168.0.2\n    ssh: {user: '-oProxyCommand=x'}"), "node2.ssh.user"),
        (("peer_ip: 192.168.0.2", "peer_ip: 192.168.0.2\n    ssh: {host: '-x'}"), "neither an address nor"),
        (("peer_ip: 192.168.0.2", "peer_ip: 192.168.0.2\n    checks: [[]]"), "a check is a list of words"),
        (("nodes:", "notes:"), "notes: unknown key"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    assert expected in complaint(tmp_path, LEAST.replace(*change))


FORMS = ("0{}", "0o{}", "0x{}", "0b{}", "+{}", "{0}_{0}", "1_{}", "{}:10", "1:{}:10", "{}.0", "yes", "off")
PLACES = (
    ("  name: demo\n", "  name: demo\n  api: {port: VALUE}\n"),
    ("  name: demo\n", "  name: demo\n  network: {open_to_pods: [VALUE]}\n"),
    ("  name: demo\n", "  name: demo\n  backup: {keep: {daily: VALUE}}\n"),
    ("192.168.0.2\n", "192.168.0.2\n    ssh: {port: VALUE}\n"),
)


@given(st.sampled_from(FORMS), st.sampled_from(["10", "110", "1000"]), st.sampled_from(PLACES))
def test_a_number_of_another_yaml_is_refused(form: str, digits: str, place: tuple[str, str]) -> None:
    with TemporaryDirectory() as folder:
        said = complaint(Path(folder), LEAST.replace(*place).replace("VALUE", form.format(digits)))
    assert re.fullmatch(
        r"inventory\.yaml:\d+: .*(must be a whole number|would be read as \d+; write a decimal.*)", said
    )


@pytest.mark.parametrize("value", ["022", "22:22", "yes", "1.0", "2026-01-01", "null"])
def test_text_that_yaml_takes_for_something_else_is_refused(tmp_path: Path, value: str) -> None:
    said = complaint(tmp_path, LEAST.replace("demo", value))
    assert said.startswith("inventory.yaml:2: ") and "in quotes" in said and len(said.splitlines()) == 1


def test_a_network_is_written_in_one_way_only(tmp_path: Path) -> None:
    text = "name: demo\n  api: {allow_from: ['2001:DB8:0:0::/32', 10.0.0.0/255.0.0.0, 192.0.2.1]}"
    inventory = read(tmp_path, LEAST.replace("name: demo", text))
    assert inventory.cluster.api.allow_from == ("2001:db8::/32", "10.0.0.0/8", "192.0.2.1/32")


@given(
    st.text(max_size=12), st.sampled_from(["::", "fe80::", "10.0.0.0", "0.0.0.0"]), st.sampled_from(["", "/0", "/64"])
)
def test_only_a_network_gets_into_a_rule(middle: str, address: str, length: str) -> None:
    try:
        networks = Api(allow_from=(f"{address}{middle}{length}",)).allow_from
    except ValueError:
        return
    assert re.fullmatch(r"[0-9a-f:.]+/[0-9]{1,3}", networks[0], re.ASCII)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty"),
        ("hello", "must be a mapping"),
        ("- 1", "must be a mapping"),
        ("a: &x {b: 1}\nc: *x", "inventory.yaml:1: anchors and aliases are not supported"),
        ("cluster:\n\tname: x", "inventory.yaml:2: not valid YAML"),
        ("cluster: {name: x", "not valid YAML"),
        ("cluster: !!python/object/apply:os.system [ls]", "is not supported"),
        ("cluster: {name: !!binary x}", "is not supported"),
        ("? [a]\n: b", "a key must be plain text"),
        (b"cluster: \xff", "inventory.yaml:1: not UTF-8 text"),
        ("cluster: \x1b[31m", "inventory.yaml:1: holds a control character"),
        ("# ëëëë\n\n# ë\ncluster: \x7f", "inventory.yaml:4: holds a control character"),
        ("[" * 21, "inventory.yaml:1: nested more than 20 levels deep"),
        ("[" * 100_000, "inventory.yaml:1: nested more than 20 levels deep"),
        ("{a: " * 500 + "1" + "}" * 500, "inventory.yaml:1: nested more than 20 levels deep"),
        ("a:\n  b: " + "{a: [" * 3000, "inventory.yaml:2: nested more than 20 levels deep"),
        ("- " * 10 + "[" * 3000, "inventory.yaml:1: nested more than 20 levels deep"),
        ("- " * 3000, "inventory.yaml:1: nested more than 20 levels deep"),
        ("? " * 3000, "inventory.yaml:1: nested more than 20 levels deep"),
        ("".join(" " * level + "a:\n" for level in range(1000)), "nested more than 20 levels deep"),
        ("#" * 1_000_001, "this is not an inventory"),
        ("cluster: {name: x}\n---\ncluster: {name: y}", "not valid YAML"),
    ],
)
def test_hostile_files_give_one_line(tmp_path: Path, text: str | bytes, expected: str) -> None:
    said = complaint(tmp_path, text)
    assert expected in said
    assert "Traceback" not in said and "\x1b" not in said


@pytest.mark.parametrize(
    "text", ["[" * 3000, "a: {a: [" * 3000, "- " * 10 + "[" * 21], ids=["brackets", "both brackets", "in a list"]
)
def test_nesting_is_refused_before_pyyaml_reads_it(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def limit(*_: object, **__: object) -> None:
        raise yaml.scanner.ScannerError(problem="too much for this version")

    monkeypatch.setattr(yaml, "parse", limit)
    assert "nested more than 20 levels deep" in complaint(tmp_path, text)


@pytest.mark.parametrize(
    "value",
    [
        '"' + "[" * 30 + '"',
        "'it''s " + "{" * 30 + "'",
        '"\\"' + "[" * 30 + '"',
        "x # " + "[" * 30,
        "[" * 17 + "]" * 17,
        "[" + "[], {}, " * 30 + "]",
    ],
    ids=["in double quotes", "in single quotes", "escaped quote", "comment", "17 deep", "beside each other"],
)
def test_brackets_that_do_not_nest_deep_are_accepted(value: str) -> None:
    assert positions.parse(f"key: {value}\n", Path("inventory.yaml")).data.keys() == {"key"}


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: LEAST.replace("demo", text).encode()))
def test_any_input_gives_an_inventory_or_a_usage_error(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    try:
        read(tmp_path_factory.mktemp("inventory"), text)
    except SmallkubeError as error:
        assert error.exit_status == 2
        assert all(line.isprintable() for line in str(error).splitlines())


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file; create it"):
        load(tmp_path / "inventory.yaml")


def test_selection_combines_filters_and_names_what_is_known(tmp_path: Path) -> None:
    inventory = read(tmp_path, LEAST + "    tags: [rack1]\n")
    assert [node.name for node in inventory.select(tags=["rack1"])] == ["node2"]
    assert [node.name for node in inventory.select(roles=["primary"])] == ["node1"]
    assert len(inventory.select()) == 2
    with pytest.raises(UsageError, match="the nodes are node1, node2"):
        inventory.select(names=["node9"])
    with pytest.raises(UsageError, match="the tags are rack1"):
        inventory.select(tags=["rack2"])
    with pytest.raises(UsageError, match="no node matches"):
        inventory.select(names=["node1"], tags=["rack1"])


def test_the_schema_describes_what_the_reader_accepts() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == {"cluster", "nodes"}
    references = {str(value) for value in _references(schema)}
    assert references <= {f"#/$defs/{name}" for name in schema["$defs"]}
    assert schema["$defs"]["Cluster"]["required"] == ["name"]


def _references(value: object) -> list[object]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [reference for item in value.values() for reference in _references(item)]
    if isinstance(value, list):
        return [reference for item in value for reference in _references(item)]
    return []


def test_node_ports_on_the_lan_need_ipv4(tmp_path: Path) -> None:
    file = tmp_path / "inventory.yaml"
    nodes = "{node1: {peer_ip: 192.0.2.1}, node2: {peer_ip: '2001:db8::2'}, node3: {peer_ip: '2001:db8::3'}}"
    file.write_text(f"cluster:\n  name: t\n  network: {{node_ports: [tunnel, lan]}}\nnodes: {nodes}\n")
    with pytest.raises(ErrorGroup, match=r"inventory\.yaml:3: cluster\.network\.node_ports: lan: .* of node2, node3"):
        load(file)
    text = file.read_text()
    file.write_text(text.replace(", lan", ""))
    load(file)
    file.write_text(text.replace("lan]", "lan], services6: 'fd88::/112'"))
    assert load(file).addressing.services == ("10.88.0.0/24", "fd88::/112")


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("labels: [disk]", "nodes.node2.labels.0: does not have the form"),
        ("labels: [role=x]", "nodes.node2.labels.0: role is set by smallkube or the kubelet"),
        ("labels: [a=b, a=c]", "nodes.node2.labels: a is there twice"),
        ("labels: ['a=b c']", "nodes.node2.labels.0: does not have the form"),
        ("labels: {a: b}", "nodes.node2.labels: must be a list"),
        ("taints: [gpu]", "nodes.node2.taints.0: does not have the form"),
        ("taints: ['gpu=yes:Never']", "nodes.node2.taints.0: does not have the form"),
        ("taints: ['a=b:NoExecute', 'a:NoExecute']", "nodes.node2.taints: a:NoExecute is there twice"),
        ('taints: ["a=$(id):NoExecute"]', "nodes.node2.taints.0: does not have the form"),
    ],
)
def test_a_mark_that_no_node_can_have_is_refused(field: str, expected: str, tmp_path: Path) -> None:
    assert expected in complaint(tmp_path, LEAST.replace("192.168.0.2", f"192.168.0.2\n    {field}"))


def test_labels_and_taints_of_nodes(tmp_path: Path) -> None:
    fields = """
    labels: [example.com/disk=ssd, node-role.kubernetes.io/worker=]
    taints: ['a=:NoExecute', 'a:NoSchedule']"""
    primary, worker = read(tmp_path, LEAST.replace("192.168.0.2", f"192.168.0.2{fields}")).nodes
    assert (primary.labels, primary.taints) == ((), None)
    assert worker.labels == ("example.com/disk=ssd", "node-role.kubernetes.io/worker=")
    assert worker.taints == ("a=:NoExecute", "a:NoSchedule")
