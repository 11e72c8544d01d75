"""Proves the lab's decisions that need no machine: addresses, the mirror, what may be deleted, what lies in /etc."""

import json
from pathlib import Path

import pytest

from lab import cgroups, containers, image, layer, network, removal, workspace
from lab.node import files, toplevel
from lab.node.system import System
from lab.nspawn import Container
from lab.places import Places
from smallkube.core.errors import SmallkubeError
from smallkube.inventory.load import load
from smallkube.inventory.models import ClusterSettings
from smallkube.inventory.releases import PINS


def test_every_lab_has_its_own_link_local_addresses() -> None:
    addresses = {network.operator_address(lab, node) for lab in (1, 2, 254) for node in (1, 254)}
    assert len(addresses) == 6
    assert all(address.startswith("127.") for address in addresses)


def test_a_lab_gets_its_previous_or_the_first_free_number() -> None:
    def free(number: int) -> str | None:
        return None if number in (1, 7) else f"claim of {number}"

    assert network.claim_number(free) == (2, "claim of 2")
    assert network.claim_number(free, reserved=[2, 4]) == (3, "claim of 3")
    assert network.claim_number(free, preferred=9) == (9, "claim of 9")
    assert network.claim_number(free, reserved=[2], preferred=7) == (3, "claim of 3")
    with pytest.raises(SmallkubeError, match="no number from 1 to 254 is free"):
        network.claim_number(free, reserved=range(1, 255))


def test_labs_of_one_name_have_groups_of_their_own() -> None:
    groups = {Container(Path(folder) / "lab", 1, index).group for folder in ("/one", "/two") for index in (1, 2)}
    assert len(groups) == 4
    longest = Container(Path("/state") / ("x" * 31), 254, 254).group
    assert len(longest) <= 64, "the limit of a machine's name (see machine-info(5))"


@pytest.mark.parametrize(
    ("targets", "mirror"),
    [
        ("", "http://deb.debian.org/debian"),
        ("http://deb.debian.org/debian-security/\nhttp://ftp.example.org/debian/\n", "http://ftp.example.org/debian"),
        ("https://mirror.example.org/pub/debian", "https://mirror.example.org/pub/debian"),
        ("file:/srv/debian/\nhttps://packages.example.org/docker", "http://deb.debian.org/debian"),
    ],
)
def test_the_mirror_is_the_one_apt_uses(targets: str, mirror: str) -> None:
    assert image.mirror(targets) == mirror


def test_places_follow_the_xdg_folders() -> None:
    assert Places.find({"HOME": "/home/u"}).cache == Path("/home/u/.cache/smallkube/lab")
    found = Places.find({"HOME": "/home/u", "XDG_CACHE_HOME": "/c", "XDG_STATE_HOME": "/s"})
    assert found == Places(Path("/c/smallkube/lab"), Path("/s/smallkube/lab"))


MOUNTS = r"""
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
22 21 0:5 / /lab/node\0401/root rw - overlay overlay rw
23 21 0:6 / /laboratory rw - tmpfs tmpfs rw
24 21 0:7 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
25 21 0:8 / /sys/fs/cgroup/pids rw shared:4 - cgroup cgroup rw,pids
"""


def test_mounts_below_a_folder_are_seen() -> None:
    assert removal.mounted_below(Path("/lab"), MOUNTS) == ["/lab/node 1/root"]
    assert removal.mounted_below(Path("/other"), MOUNTS) == []


def test_nothing_is_deleted_across_a_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(removal, "mounted_below", lambda folder, _text: [f"{folder}/x"])
    with pytest.raises(SmallkubeError, match="is mounted"):
        removal.remove_tree(tmp_path)
    assert (tmp_path / "file").exists()


def test_control_group_hierarchies_are_found() -> None:
    assert cgroups.hierarchies(MOUNTS) == [Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/pids")]


def test_programs_of_a_debian_package() -> None:
    listed = "/.\n/usr\n/usr/bin\n/usr/bin/etcdctl\n/usr/share/doc/etcd\n/bin/ip\n"
    assert layer.programs(listed) == {"etcdctl": "/usr/bin/etcdctl", "ip": "/bin/ip"}


def test_flake_lock_pins_the_stand_ins_under_the_real_names() -> None:
    lock = json.loads(workspace.flake_lock(ClusterSettings(name="lab"), {"nixpkgs": "sha256-a", "agenix": "sha256-b"}))
    assert lock["version"] == 7
    assert lock["nodes"]["agenix"]["inputs"] == {"nixpkgs": ["nixpkgs"]}
    assert lock["nodes"]["nixpkgs"]["original"] == {
        "type": "github",
        "owner": "NixOS",
        "repo": "nixpkgs",
        "ref": "nixos-25.11",
    }
    assert lock["nodes"]["agenix"]["locked"]["narHash"] == "sha256-b"


def test_inventory_of_a_lab_is_valid(tmp_path: Path) -> None:
    (tmp_path / "inventory.yaml").write_text(workspace.inventory(3, (1, 2, 254), "lab"))
    found = load(tmp_path / "inventory.yaml")
    nodes = found.nodes
    assert (found.cluster.smoke.image, found.cluster.smoke.pull_policy) == (containers.BUSYBOX, "Never")
    assert [(node.ssh.host, node.ssh.port) for node in nodes] == [
        ("127.88.3.1", 2222),
        ("127.88.3.2", 2222),
        ("127.88.3.254", 2222),
    ]


@pytest.mark.parametrize(
    ("minor", "nixos", "pinned"),
    [
        ("1.34", "25.11", None),
        ("1.35", "26.05", {"rev": PINS["1.35"].revision}),
        ("1.36", "26.05", None),
        ("1.37", "26.05", {"ref": "nixos-unstable"}),
    ],
)
def test_inventory_and_lock_of_a_lab_fit_each_minor(
    minor: str, nixos: str, pinned: dict[str, str] | None, tmp_path: Path
) -> None:
    (tmp_path / "inventory.yaml").write_text(workspace.inventory(3, (1, 2), "lab", minor=minor))
    cluster = load(tmp_path / "inventory.yaml").cluster
    assert (cluster.kubernetes, cluster.nixos) == (minor, nixos)
    lock = json.loads(workspace.flake_lock(cluster, dict.fromkeys(workspace.stand_ins(cluster), "sha256-a")))
    assert lock["nodes"]["nixpkgs"]["locked"]["path"] == f"/opt/smallkube-lab/nixpkgs/{nixos}"
    second = lock["nodes"].get("kubernetes-nixpkgs")
    origin = {"type": "github", "owner": "NixOS", "repo": "nixpkgs"}
    assert (second and second["original"]) == (pinned and {**origin, **pinned})
    assert second is None or second["locked"]["path"] == f"/opt/smallkube-lab/kubernetes-nixpkgs/{minor}"


def test_a_minor_that_the_machines_lack_ends_the_build(tmp_path: Path) -> None:
    text = "[Service]\nExecStart=/opt/smallkube-lab/pkgs/kubernetes-1.36/bin/kubelet --x\n"
    description = {"units": {"kubelet.service": {"text": text}}}
    toplevel.make(description, tmp_path / "without", lambda _: False, lambda _: "")
    with pytest.raises(SystemExit, match=r"no Kubernetes 1\.36: inv lab\.down, inv lab\.kubernetes --minor 1\.36"):
        toplevel.make(description, tmp_path / "other", lambda path: path.endswith("kubernetes/bin"), lambda _: "")


def system(path: Path, texts: dict[str, str], modes: dict[str, str]) -> System:
    for name, text in texts.items():
        (path / "etc" / name).parent.mkdir(parents=True, exist_ok=True)
        (path / "etc" / name).write_text(text)
    manifest = {"etc": {name: {"mode": mode} for name, mode in modes.items()}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return System(path)


def test_etc_follows_the_system_and_gives_debian_its_files_back(tmp_path: Path) -> None:
    etc, state = tmp_path / "etc", tmp_path / "state"
    etc.mkdir()
    (etc / "hosts").write_text("Debian's")
    one = system(tmp_path / "one", {"hosts": "ours", "deep/er/file": "x", "secret": "s"}, {"secret": "0640"})
    two = system(tmp_path / "two", {"secret": "t"}, {"secret": "0600"})

    files.place(one, etc, state, {"systemd/network/x.netdev": Path("/run/x")})
    assert (etc / "hosts").readlink() == Path("/etc/static/hosts")
    assert (etc / "static").readlink() == one.path / "etc"
    assert ((etc / "secret").read_text(), (etc / "secret").stat().st_mode & 0o777) == ("s", 0o640)
    assert (etc / "systemd/network/x.netdev").readlink() == Path("/run/x")

    files.place(two, etc, state, {})
    assert (etc / "hosts").read_text() == "Debian's"
    assert ((etc / "secret").read_text(), (etc / "secret").stat().st_mode & 0o777) == ("t", 0o600)
    assert sorted(path.name for path in etc.iterdir()) == ["hosts", "secret", "static"]
