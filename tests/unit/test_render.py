"""Proves what rendering plans, writes, keeps and removes; tests/integration/ has Nix evaluate the result."""

import re
from pathlib import Path

import pytest

from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.nix import render


def cluster_of(workspace: Workspace) -> Cluster:
    return Cluster(workspace, load(workspace.inventory_file))


def names(workspace: Workspace, paths: tuple[Path, ...]) -> set[str]:
    return {workspace.relative(path) for path in paths}


def test_everything_is_rendered_once_and_then_current(workspace: Workspace) -> None:
    plan = render.plan(cluster_of(workspace))
    assert names(workspace, plan.changed) == {
        "nix/flake.nix",
        "nix/hosts/node1.nix",
        "nix/hosts/node2.nix",
        "nix/rendered/cluster.nix",
        "nix/rendered/node1.nix",
        "nix/rendered/node2.nix",
        "nix/rendered/channel/node1.nix",
        "nix/rendered/channel/node2.nix",
    }
    plan.apply()
    assert render.plan(cluster_of(workspace)).changed == ()


@pytest.mark.parametrize("end", [b"\r\n", b"\r", b" # \xe9\n", b"\xef\xbb\xbf\n"])
def test_a_file_with_other_bytes_is_rendered_again(workspace: Workspace, end: bytes) -> None:
    """Nix would keep CRLF in its strings; and git may have checked it out so."""
    render.plan(cluster_of(workspace)).apply()
    file = workspace.rendered_dir / "node2.nix"
    before = file.read_bytes()
    file.write_bytes(before.replace(b"\n", end))
    plan = render.plan(cluster_of(workspace))
    assert plan.changed == (file,)
    assert plan.diff(workspace.root)
    plan.apply()
    assert file.read_bytes() == before


def test_a_node_is_given_exactly_its_own_secrets(workspace: Workspace) -> None:
    render.plan(cluster_of(workspace)).apply()
    worker = (workspace.rendered_dir / "node2.nix").read_text()
    assert '"wgkube.key" = ../../keys/wgkube2.key.age;' in worker
    assert '"node_node2.key" = ../../keys/node_node2.key.age;' in worker
    assert "kube_token_root" not in worker
    assert "node1" not in worker
    primary = (workspace.rendered_dir / "node1.nix").read_text()
    assert "kube_token_root" in primary and "node_node2.key.age" not in primary
    assert "file = ../../keys/node_node2.crt;" in primary
    assert "wgkube2" not in primary


def test_a_rotation_in_progress_is_rendered(workspace: Workspace) -> None:
    workspace.keys_dir.mkdir()
    (workspace.keys_dir / "kube_token_root.old.age").touch()
    (workspace.keys_dir / "stray.old.age").touch()
    render.plan(cluster_of(workspace)).apply()
    primary = (workspace.rendered_dir / "node1.nix").read_text()
    assert '"kube_token_root.old" = ../../keys/kube_token_root.old.age;' in primary
    assert "stray" not in primary


def test_a_persons_own_files_are_never_touched(workspace: Workspace) -> None:
    render.plan(cluster_of(workspace)).apply()
    own = workspace.hosts_dir / "node2.nix"
    own.write_text("{ }\n")
    stranger = workspace.rendered_dir / "notes.nix"
    stranger.write_text("# mine\n{ }\n")
    workspace.inventory_file.write_text(
        workspace.inventory_file.read_text().replace("  node2:\n    peer_ip: 192.168.0.2\n", "")
    )
    plan = render.plan(cluster_of(workspace))
    assert names(workspace, plan.obsolete) == {"nix/rendered/node2.nix", "nix/rendered/channel/node2.nix"}
    plan.apply()
    assert own.read_text() == "{ }\n" and stranger.exists()
    assert not (workspace.rendered_dir / "node2.nix").exists()


def test_the_difference_names_files_and_lines(workspace: Workspace) -> None:
    render.plan(cluster_of(workspace)).apply()
    text = workspace.inventory_file.read_text().replace("name: test", "name: test\n  network: {mtu: 1400}")
    workspace.inventory_file.write_text(text)
    diff = render.plan(cluster_of(workspace)).diff(workspace.root)
    assert "--- a/nix/rendered/cluster.nix" in diff
    assert "-    mtu = 1420;" in diff and "+    mtu = 1400;" in diff


def test_addons_keep_their_place_in_the_workspace(workspace: Workspace) -> None:
    (workspace.root / "my addons").mkdir()
    (workspace.root / "my addons" / "x.yaml").touch()
    text = workspace.inventory_file.read_text().replace("name: test", "name: test\n  addons: [my addons/x.yaml]")
    workspace.inventory_file.write_text(text)
    render.plan(cluster_of(workspace)).apply()
    assert '(../. + "/../my addons/x.yaml")' in (workspace.rendered_dir / "cluster.nix").read_text()


def test_addons_of_the_catalogue_are_rendered_by_name(workspace: Workspace) -> None:
    (workspace.root / "x.yaml").touch()
    names = "metrics-server, x.yaml, local-path"
    text = workspace.inventory_file.read_text().replace("name: test", f"name: test\n  addons: [{names}]")
    workspace.inventory_file.write_text(text)
    render.plan(cluster_of(workspace)).apply()
    (listed,) = re.findall(r"userAddons = \[(.*?)\]", (workspace.rendered_dir / "cluster.nix").read_text(), re.DOTALL)
    assert listed.split() == ['"metrics-server"', "../../x.yaml", '"local-path"']


def test_a_template_cannot_write_an_unfiltered_value(workspace: Workspace) -> None:
    templates = workspace.nix_dir / "templates"
    templates.mkdir(parents=True)
    for name in ("flake.nix.j2", "cluster.nix.j2", "node.nix.j2", "channel.nix.j2", "host.nix.j2"):
        (templates / name).write_text("{{ 'raw' }}")
    with pytest.raises(TypeError, match="without the nix filter"):
        render.plan(cluster_of(workspace))
