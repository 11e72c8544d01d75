"""Proves on a cluster in memory that an upgrade over several minors passes each of them with its own configuration,
that it ends well from wherever it was killed, and never leaves the operator's files as those of another minor.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from smallkube.core.errors import SmallkubeError
from smallkube.deploy import plan as planning
from smallkube.deploy.plan import Options, Report
from smallkube.deploy.preflight import check_rendered
from smallkube.etcd.status import Status
from smallkube.inventory import releases
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.kube.versions import Deprecated
from smallkube.nix import flake, lockfile, render
from smallkube.nix.bundle import Bundle, assemble
from smallkube.operations import upgrade_path
from smallkube.operations.engine import Runbook
from smallkube.operations.upgrade import Upgrade, make
from tests.unit.fake_cluster import FakeCluster, Killed, kills, run
from tests.unit.test_operation_upgrade import facts, now

NAMED = "0123456789abcdef0123456789abcdef01234567"
OLD, TARGET = "v1.34.2", "v1.37.0"
LAST = "  kubernetes: '1.37'\n  nixos: '26.05'\n  kubernetes_nixpkgs: '" + NAMED + "'\n"
STAGES = ("deploy node1", "smoke test after node1", "deploy node2", "smoke test after node2")
BACKUP = "back up etcd and verify the backup"
TITLES = (
    "render and lock the configuration of 1.35, 1.36 (.smallkube/upgrade)",
    *(f"1.35: {title}" for title in (BACKUP, *STAGES)),
    *(f"{minor}: {title}" for minor in ("1.36", "1.37") for title in ("check what forbids it", BACKUP, *STAGES)),
)


def lock(_: Cluster, bundle: Bundle) -> bytes:
    """What Nix does: an input that is missing or of another place is pinned, and no other (tests/integration/nix)."""
    rendered = bundle.files["nix/flake.nix"].decode()
    found = json.loads(bundle.files.get("nix/flake.lock", b'{"nodes": {"root": {"inputs": {}}}, "root": "root"}'))
    nodes = found["nodes"]
    for name, url in re.findall(r'([\w-]+)\.url = "github:(.+)";', rendered):
        owner, repo, *last = url.split("/")
        original = {"type": "github", "owner": owner, "repo": repo}
        original |= {"rev" if len(word) == 40 else "ref": word for word in last}
        if nodes.get(name, {}).get("original") != original:
            nodes["root"]["inputs"][name] = name
            nodes[name] = {"locked": {"rev": (last or ["newest"])[0]}, "original": original}
    return json.dumps(found).encode()


@pytest.fixture
def walking(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """Two nodes with 1.34; the workspace is rendered and locked for 1.37."""

    def back_up(run: Upgrade) -> None:
        assert len({*cluster.members.values()}) == 1
        run.backup = f"of {cluster.members['node1']}"

    monkeypatch.setattr(Runbook, "back_up", back_up)
    monkeypatch.setattr(planning, "_lock", lock)
    file = cluster.workspace.inventory_file
    file.write_text(file.read_text().replace("cluster:\n", f"cluster:\n{LAST}"))
    render.plan(cluster.cluster).apply()
    planning.locked(cluster.cluster, assemble(cluster.cluster))
    cluster.members = dict.fromkeys(cluster.members, OLD)
    cluster.deployments.clear()
    return cluster


def upgrading(cluster: FakeCluster, deploy: Callable[..., Any] | None = None, **more: Any) -> Upgrade:
    plan = make(cluster.cluster, now(cluster), 1, **more)
    deploy, asked = deploy or partial(deploy_checked, cluster), partial(now, cluster)
    return Upgrade(cluster.cluster, None, cluster.connect, deploy, plan, lambda: (), asked, 0, lambda _: None)


def deploy_checked(fake: FakeCluster, nodes: list[Node], cluster: Cluster, options: Options) -> list[Report]:
    """What a deploy sends is of one minor, rendered and locked; and nodes skip none."""
    check_rendered(cluster, render.plan(cluster).changed)
    files, minor = assemble(cluster).files, cluster.inventory.cluster.kubernetes
    assert f'kubernetesMinor = "{minor}";'.encode() in files["nix/rendered/cluster.nix"]
    second = {"1.35": releases.PINS["1.35"].revision, "1.36": None, "1.37": NAMED}[minor]
    inputs = lockfile.inputs(files["nix/flake.lock"])
    assert (inputs["kubernetes-nixpkgs"].revision if "kubernetes-nixpkgs" in inputs else None) == second
    assert inputs["nixpkgs"].revision == "nixos-26.05"
    for node in nodes:
        assert int(minor[2:]) - int(fake.members[node.name].split(".")[1]) in (0, 1)
        assert fake.members["node1"].startswith(f"v{minor}.") or node.role == "primary"
    return fake.deploy(nodes, cluster=cluster, options=options)


def own_files(cluster: FakeCluster) -> dict[Path, bytes]:
    """The operator's files that a minor changes."""
    files = (cluster.workspace.inventory_file, *(cluster.workspace.root / "nix").rglob("*"))
    return {path: path.read_bytes() for path in files if path.is_file()}


def ended(cluster: FakeCluster) -> bool:
    return {*cluster.members.values()} == {TARGET} and not [*cluster.workspace.between_dir.glob("*")]


def test_each_minor_is_passed_and_the_printed_steps_run(walking: FakeCluster) -> None:
    before, found = own_files(walking), upgrading(walking)
    assert found.operation().titles(walking.keys) == TITLES
    assert run(found.operation(), walking.keys)
    assert walking.deployments == [["node1"], ["node2"]] * 3
    assert (found.version, found.backup) == (TARGET, "of v1.36.0")
    assert ended(walking)
    assert own_files(walking) == before


@pytest.mark.parametrize("first", TITLES)
def test_killed_twice_the_same_command_ends_it(first: str, walking: FakeCluster, light: None) -> None:
    before = own_files(walking)
    assert not run(upgrading(walking, walking.deploy).operation(), walking.keys, first)
    for second in kills(walking, upgrading(walking, walking.deploy).operation()):
        if second:
            assert own_files(walking) == before
            assert run(upgrading(walking, walking.deploy).operation(), walking.keys)
        assert ended(walking)


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """In-between configurations are a file each: what is in them is tested above and below."""

    def prepare(cluster: Cluster, minors: list[str]) -> None:
        for minor in minors:
            file = upgrade_path.cluster_at(cluster, minor).workspace.flake_file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("")

    monkeypatch.setattr(upgrade_path, "prepare", prepare)


@pytest.mark.parametrize("minor", ["1.35", "1.36", "1.37"])
@pytest.mark.parametrize("title", STAGES)
def test_a_smoke_test_that_did_not_run_is_repeated(minor: str, title: str, walking: FakeCluster) -> None:
    assert not run(upgrading(walking).operation(), walking.keys, f"{minor}: {title}")
    titles = upgrading(walking).operation().titles(walking.keys)
    last = f"{minor}: smoke test after node2"
    assert last.removeprefix("1.37: " if len(titles) < 6 else "") in titles


def test_killed_at_each_file_while_rendering(walking: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real, left = own_files(walking), os.replace, 0
    started = walking.moment()

    def replace_file(*paths: Any) -> None:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        real(*paths)

    for count in range(1000):
        walking.go_back(started)
        left = count
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace_file)
            assert not run(upgrading(walking).operation(), walking.keys, TITLES[1])
        assert own_files(walking) == before
        if left:
            break
        if count % 4 == 0:
            assert run(upgrading(walking).operation(), walking.keys)
            assert ended(walking)
    assert count > 8


def test_killed_while_a_configuration_is_removed(walking: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(folder: Path) -> None:
        (folder / "nix/flake.nix").unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", half)
        assert not run(upgrading(walking).operation(), walking.keys)
    assert {*walking.members.values()} == {"v1.35.0"}
    assert run(upgrading(walking).operation(), walking.keys)
    assert ended(walking)


def test_only_a_damaged_lock_of_the_operators_own_stops(walking: FakeCluster) -> None:
    upgrade_path.prepare(walking.cluster, ["1.35", "1.36"])
    file = upgrade_path.cluster_at(walking.cluster, "1.35").workspace.flake_lock
    good = file.read_bytes()
    file.write_bytes(b"<<<<<<<")
    upgrade_path.prepare(walking.cluster, ["1.35", "1.36"])
    assert file.read_bytes() == good
    walking.workspace.flake_lock.write_bytes(b"<<<<<<<")
    with pytest.raises(
        SmallkubeError, match=r"^nix/flake\.lock: damaged; restore it from git, or run `inv nix\.render"
    ):
        upgrade_path.prepare(walking.cluster, ["1.35", "1.36"])


def test_a_renewed_lock_is_that_of_the_next_minors(walking: FakeCluster) -> None:
    """An input that nix/flake.lock has another revision of is that one, also where a minor is locked already."""
    assert not run(upgrading(walking).operation(), walking.keys, TITLES[1])
    file = walking.workspace.flake_lock
    file.write_bytes(file.read_bytes().replace(b'"rev": "nixos-26.05"', b'"rev": "newer"'))
    upgrade_path.prepare(walking.cluster, ["1.35", "1.36"])
    for minor in ("1.35", "1.36"):
        pinned = upgrade_path.cluster_at(walking.cluster, minor).workspace.flake_lock.read_bytes()
        assert lockfile.inputs(pinned)["nixpkgs"].revision == "newer"


def test_another_known_revision_is_pinned_anew(walking: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next version of smallkube, while an upgrade is under way."""
    assert not run(upgrading(walking).operation(), walking.keys, TITLES[1])
    pin = replace(releases.PINS["1.35"], revision="e" * 40)
    monkeypatch.setattr(releases, "PINS", {**releases.PINS, "1.35": pin})
    upgrade_path.prepare(walking.cluster, ["1.35", "1.36"])
    pinned = upgrade_path.cluster_at(walking.cluster, "1.35").workspace.flake_lock.read_bytes()
    assert lockfile.inputs(pinned)["kubernetes-nixpkgs"].revision == "e" * 40


def test_a_stale_lock_is_pinned_before_the_first_minor(walking: FakeCluster) -> None:
    """inventory.yaml names the next release, and `inv nix.render --update-lock` was left out."""
    file = walking.workspace.flake_lock
    file.write_bytes(file.read_bytes().replace(b"nixos-26.05", b"nixos-25.11"))
    assert run(upgrading(walking).operation(), walking.keys)
    assert lockfile.inputs(file.read_bytes())["nixpkgs"].revision == "nixos-26.05"


def test_what_forbids_the_next_minor_ends_it_there(walking: FakeCluster) -> None:
    found = upgrading(walking)
    bad = replace(now(walking), deprecated=(Deprecated("a/v1/b", "1.36"),))
    found.facts = lambda: replace(now(walking), deprecated=bad.deprecated)
    with pytest.raises(SmallkubeError, match=r"must not go on to 1\.36: deprecated APIs: a/v1/b \(gone in 1\.36\)"):
        run(found.operation(), walking.keys)
    assert {*walking.members.values()} == {"v1.35.0"}


def test_a_minor_is_not_skipped_when_nodes_went_back(walking: FakeCluster) -> None:
    found = upgrading(walking)
    found.facts = lambda: facts(2, OLD, OLD, OLD)
    with pytest.raises(SmallkubeError, match=rf"must not go on to 1\.36: minor step: {OLD} runs, 1\.35 comes first"):
        run(found.operation(), walking.keys)


def test_a_minor_without_a_known_revision_is_refused(walking: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "PINS", {"1.36": releases.PINS["1.36"]})
    with pytest.raises(SmallkubeError, match=r"no revision of nixpkgs with 1\.35, which .* set cluster\.kubernetes to"):
        upgrading(walking)
    assert not walking.workspace.between_dir.exists()


@pytest.mark.parametrize(
    ("etcd", "running", "faults", "rolls_back"),
    [
        ({"etcd": "3.7.3"}, "3.6.6", "raises the version of the data", "impossible without `etcdctl --endpoints"),
        ({"etcd": "3.6.14"}, "3.6.6", "", "--node node1"),
        ({}, "3.6.6", "", "if it has etcd 3.7, impossible without"),
    ],
)
def test_what_can_not_be_rolled_back_is_said_before(
    walking: FakeCluster, etcd: dict[str, str], running: str, faults: str, rolls_back: str
) -> None:
    assert isinstance(now(walking).etcd, Status)
    if faults:
        with pytest.raises(SmallkubeError, match=rf"etcd versions: 1\.37: .*{faults}.*--no-rollback"):
            upgrading(walking, packages=etcd)
    about = upgrading(walking, packages=etcd, reversible=False).plan.about
    origin = "Kubernetes 1.35.3, etcd 3.6.9, CRI-O 1.35.0 from nixpkgs 8110df5ad7ab"
    assert about[0] == f"1.35: NixOS 26.05, {origin}, rendered in .smallkube/upgrade/1.35"
    assert about[1] == "  rollback of 1.35: inv deploy.rollback --node node2, then inv deploy.rollback --node node1"
    assert about[4].startswith("1.37: NixOS 26.05, ")
    assert about[4].endswith(f" from nixpkgs {NAMED[:12]}")
    assert rolls_back in about[5]


def test_a_flake_of_another_inventory_is_not_evaluated(walking: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """inventory.yaml has changed and was not rendered: that etcd is 3.6 in it says nothing."""
    monkeypatch.setattr(flake, "versions", lambda _files, _node: {"etcd": "3.6.14"})
    assert upgrade_path.evaluated(walking.cluster) == {"etcd": "3.6.14"}
    file = walking.workspace.inventory_file
    file.write_text(file.read_text().replace(NAMED, "e" * 40))
    assert upgrade_path.evaluated(walking.cluster) == {}


def test_a_branch_is_named_in_full(walking: FakeCluster) -> None:
    file = walking.workspace.inventory_file
    file.write_text(file.read_text().replace(NAMED, "nixos-unstable"))
    about = upgrading(walking).plan.about
    assert about[4] == "1.37: NixOS 26.05, Kubernetes 1.37 from nixpkgs nixos-unstable"


def test_only_a_primary_whose_etcd_may_be_raised_stays(walking: FakeCluster) -> None:
    """Without --no-rollback, every deploy rolls back automatically."""
    seen: list[tuple[str, str, bool]] = []

    def deploy(nodes: list[Node], cluster: Cluster, options: Options) -> list[Report]:
        seen.append((cluster.inventory.cluster.kubernetes, nodes[0].name, options.rollback))
        return deploy_checked(walking, nodes, cluster, options)

    started = walking.moment()
    assert run(upgrading(walking, deploy).operation(), walking.keys)
    assert all(rollback for _, _, rollback in seen)
    walking.go_back(started)
    seen.clear()
    found = upgrading(walking, deploy, packages={"etcd": "3.7.3"}, reversible=False)
    assert run(found.operation(), walking.keys)
    assert {pair[:2] for pair in seen if not pair[2]} == {("1.37", "node1")}
