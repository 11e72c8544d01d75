"""Proves that the bundle depends on content alone, and that neither keys in clear nor anything unlisted get into it."""

import base64
import io
import os
import tarfile
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.inventory.models import Inventory
from smallkube.nix.bundle import MAX_FILE_BYTES, Bundle, assemble
from smallkube.secrets import policy
from tests.conftest import INVENTORY

NAMES = st.text("abcdefgh0123456789._-", min_size=1, max_size=12).filter(lambda name: name.strip("."))
CONTENTS = st.binary(max_size=200).filter(lambda content: b"PRIVATE KEY" not in content and b"AGE-" not in content)
FILES = st.dictionaries(NAMES, CONTENTS, max_size=8)


def fill(workspace: Workspace) -> Inventory:
    """Put a file of every kind there; the secrets' contents do not matter here."""
    inventory = load(workspace.inventory_file)
    for folder in (workspace.rendered_dir, workspace.hosts_dir, workspace.keys_dir):
        folder.mkdir(parents=True)
    workspace.flake_file.write_text("{ }")
    (workspace.rendered_dir / "node1.nix").write_text("{ }")
    (workspace.hosts_dir / "node1.nix").write_text("{ }")
    workspace.peers_file.write_text("[]")
    for secret in policy.expected(inventory, frozenset()):
        (workspace.keys_dir / secret.file).write_text("age-encryption.org/v1")
    for name in policy.public_files(inventory):
        (workspace.keys_dir / name).write_text("a certificate")
    return inventory


@pytest.fixture
def ready(workspace: Workspace) -> tuple[Workspace, Inventory]:
    return workspace, fill(workspace)


@settings(max_examples=10)
@given(FILES, st.randoms(use_true_random=False))
def test_the_order_in_which_files_were_made_does_not_matter(files: dict[str, bytes], random: Random) -> None:
    bundles = []
    for names in (sorted(files), random.sample(sorted(files), len(files))):
        with TemporaryDirectory() as root:
            workspace = Workspace(Path(root))
            workspace.inventory_file.write_text(INVENTORY)
            inventory = fill(workspace)
            for name in names:
                path = workspace.hosts_dir / "more" / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(files[name])
                os.utime(path, (random.randrange(1 << 30),) * 2)
                path.chmod(random.choice([0o600, 0o644, 0o755]))
            bundles.append(assemble(Cluster(workspace, inventory)))
    assert bundles[0].files == bundles[1].files
    assert (bundles[0].digest, bundles[0].archive) == (bundles[1].digest, bundles[1].archive)
    shown = {name.removeprefix("nix/hosts/more/") for name in bundles[0].files if name.startswith("nix/hosts/more/")}
    assert shown == {name for name in files if not name.startswith(".")}


@given(FILES, FILES)
def test_other_files_have_another_digest(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    first, second = (Bundle(dict(sorted(files.items()))) for files in (one, other))
    assert (first.digest == second.digest) == (one == other)


def test_content_that_moves_between_files_changes_the_digest() -> None:
    assert Bundle({"a": b"1", "b": b""}).digest != Bundle({"a": b"", "b": b"1"}).digest
    assert Bundle({"a": b"x\0y"}).digest != Bundle({"a\0x": b"y"}).digest


def test_times_modes_and_umask_do_not_matter(ready: tuple[Workspace, Inventory]) -> None:
    before = assemble(Cluster(*ready))
    for path in ready[0].root.rglob("*.nix"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    old = os.umask(0o077)
    try:
        (ready[0].hosts_dir / "node1.nix").unlink()
        (ready[0].hosts_dir / "node1.nix").write_text("{ }")
        after = assemble(Cluster(*ready))
    finally:
        os.umask(old)
    assert (after.digest, after.archive) == (before.digest, before.archive)


def test_the_archive_tells_nothing_of_this_machine(ready: tuple[Workspace, Inventory]) -> None:
    bundle = assemble(Cluster(*ready))
    with tarfile.open(fileobj=io.BytesIO(bundle.archive)) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == sorted(bundle.files)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


def test_only_listed_files_of_keys_get_in(ready: tuple[Workspace, Inventory]) -> None:
    workspace, inventory = ready
    before = assemble(Cluster(workspace, inventory)).digest
    workspace.master_key.write_text("AGE-SECRET-KEY-1" + "Q" * 58)
    for name in ("kube_token_root.age.orig", "stray.age", "secrets.nix", "recipients.json", ".hidden.age"):
        (workspace.keys_dir / name).write_text("x")
    for folder in (workspace.root, workspace.hosts_dir):
        (folder / ".git").mkdir()
        (folder / ".git" / "config").write_text("x")
    assert assemble(Cluster(workspace, inventory)).digest == before


WIREGUARD = base64.b64encode(bytes(range(64, 96))).decode()
SECRET = "apiVersion: v1\nkind: Secret\nstringData: {password: hunter2}\n"
IN_LIST = "kind: List\nitems:\n- kind: ConfigMap\n- metadata: {name: x}\n  data: {a: aHVudGVyMg==}\n  kind: Secret\n"
CLEAR = [
    ("hosts/node1.nix", '# own\n{ x = "%s"; }', 2, "AGE-SECRET-KEY-1" + "Q" * 58),
    ("hosts/node1.nix", '{ x = "%s"; }', 1, "AGE-SECRET-KEY-PQ-1" + "Q" * 58),
    *(("hosts/key.pem", "%s\n", 1, f"-----BEGIN {word}PRIVATE KEY-----") for word in ("", "EC ", "OPENSSH ")),
    ("hosts/node1.nix", '{\n  wg0.privateKey = "%s";\n}', 2, WIREGUARD),
    ("hosts/wg.conf", "[Interface]\nPrivateKey=%s\n", 2, WIREGUARD),
    ("hosts/wg.conf", "[Peer]\r\nPresharedKey = %s\r\n", 2, WIREGUARD),
    ("hosts/wg.key", "%s\n", 1, WIREGUARD),
    ("addons/a.yaml", "%s", 2, SECRET),
    ("addons/a.yaml", "# ours\n---\nkind: ConfigMap\n---\n%s", 6, SECRET),
    ("addons/a.yml", "%s", 6, IN_LIST),
    ("addons/a.json", "%s", 1, '{"data": {"a": "aHVudGVyMg=="}, "kind": "Secret"}'),
    ("addons/not-yaml.yaml", "{{ x }}: [\n---\n%s", 4, SECRET),
]


@pytest.mark.parametrize(("file", "frame", "line", "text"), CLEAR)
def test_a_secret_in_clear_is_refused_by_file_and_line(
    ready: tuple[Workspace, Inventory], file: str, frame: str, line: int, text: str
) -> None:
    (ready[0].nix_dir / file).parent.mkdir(exist_ok=True)
    (ready[0].nix_dir / file).write_text(frame % text)
    with pytest.raises(SmallkubeError) as refused:
        assemble(Cluster(*ready))
    assert refused.value.exit_status == 2
    assert str(refused.value).startswith(f"nix/{file}:{line}: ")
    assert len(str(refused.value).splitlines()) == 1
    assert text not in str(refused.value) and "hunter2" not in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("file", "frame", "line", "text"), CLEAR)
def test_a_secret_is_found_in_each_encoding(
    ready: tuple[Workspace, Inventory], file: str, frame: str, line: int, text: str, end: str, encoding: str
) -> None:
    """As Notepad and PowerShell's > write files."""
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (ready[0].nix_dir / file).parent.mkdir(exist_ok=True)
    written = (mark + (frame % text).replace("\r\n", "\n").replace("\n", end)).encode(encoding)
    (ready[0].nix_dir / file).write_bytes(written)
    with pytest.raises(SmallkubeError) as refused:
        assemble(Cluster(*ready))
    assert str(refused.value).startswith(f"nix/{file}:{line}: ")


def test_what_nix_reads_has_no_bom(ready: tuple[Workspace, Inventory]) -> None:
    workspace, _ = ready
    before = assemble(Cluster(*ready))
    for path in (workspace.peers_file, workspace.hosts_dir / "node1.nix"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert assemble(Cluster(*ready)).digest == before.digest


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("hosts/node1.nix", f'{{\n  # smallkube: not secret\n  wg0.privateKey = "{WIREGUARD}";\n}}'),
        ("addons/a.yaml", SECRET.replace("Secret", "Secret  # smallkube: not secret")),
        ("addons/a.yaml", "kind: Secret\ntype: kubernetes.io/service-account-token\ndata: {}\nstringData:\n"),
        ("addons/a.yaml", "kind: HelmRelease\nspec:\n  valuesFrom:\n  - kind: Secret\n    data: {a: b}\n"),
        ("addons/a.yaml", "kind: SealedSecret\ndata: {a: b}\n"),
        ("hosts/wg.pub", f"{WIREGUARD}\n"),
        ("hosts/wg.nix", f'{{ publicKey = "{WIREGUARD}"; privateKeyFile = "/run/key"; }}'),
        ("hosts/README.md", "A Secret: [ is not YAML"),
    ],
)
def test_what_is_not_secret_gets_in(ready: tuple[Workspace, Inventory], file: str, text: str) -> None:
    (ready[0].nix_dir / file).parent.mkdir(exist_ok=True)
    (ready[0].nix_dir / file).write_text(text)
    assert assemble(Cluster(*ready)).files[f"nix/{file}"] == text.encode()


def test_every_secret_in_clear_is_named_at_once(ready: tuple[Workspace, Inventory]) -> None:
    workspace, _ = ready
    (workspace.root / "my").mkdir()
    (workspace.root / "my/addon").write_text(f"{SECRET}---\n{SECRET}")
    (workspace.hosts_dir / "node1.nix").write_text(f'{{ privateKey = "{WIREGUARD}"; }}')
    text = workspace.inventory_file.read_text()
    workspace.inventory_file.write_text(text.replace("  name: test", "  name: test\n  addons: [my/addon]"))
    with pytest.raises(SmallkubeError) as refused:
        assemble(Cluster(workspace, load(workspace.inventory_file)))
    where = [line.split(": ", 1)[0] for line in str(refused.value).splitlines()]
    assert where == ["my/addon:2", "my/addon:6", "nix/hosts/node1.nix:1"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../../keys/secrets.nix"])
def test_a_link_that_leads_out_is_refused(ready: tuple[Workspace, Inventory], target: str) -> None:
    (ready[0].keys_dir / "secrets.nix").write_text("{ }")
    (ready[0].hosts_dir / "link.nix").symlink_to(target)
    with pytest.raises(UsageError, match="leads out"):
        assemble(Cluster(*ready))


def test_a_link_to_nothing_is_refused_not_left_out(ready: tuple[Workspace, Inventory]) -> None:
    (ready[0].hosts_dir / "dangling.nix").symlink_to("gone.nix")
    with pytest.raises(UsageError, match=r"dangling\.nix"):
        assemble(Cluster(*ready))


def test_a_folder_linked_from_outside_is_refused_not_left_out(
    ready: tuple[Workspace, Inventory], tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "more.nix").write_text("{ }")
    (ready[0].hosts_dir / "linked").symlink_to(outside)
    with pytest.raises(UsageError, match="link to a folder"):
        assemble(Cluster(*ready))


def test_an_add_on_that_leads_out_of_the_workspace_is_refused(
    ready: tuple[Workspace, Inventory], tmp_path_factory: pytest.TempPathFactory
) -> None:
    workspace, _ = ready
    outside = tmp_path_factory.mktemp("outside") / "addon.yaml"
    outside.write_text("kind: List")
    (workspace.root / "addon.yaml").symlink_to(outside)
    text = workspace.inventory_file.read_text()
    workspace.inventory_file.write_text(text.replace("  name: test", "  name: test\n  addons: [addon.yaml]"))
    with pytest.raises(UsageError, match="leads out"):
        assemble(Cluster(workspace, load(workspace.inventory_file)))


def test_missing_files_name_the_task_that_makes_them(ready: tuple[Workspace, Inventory]) -> None:
    workspace, inventory = ready
    (workspace.keys_dir / "wgkube1.key.age").unlink()
    with pytest.raises(UsageError, match=r"inv keys\.generate"):
        assemble(Cluster(workspace, inventory))
    workspace.flake_file.unlink()
    with pytest.raises(UsageError, match=r"inv nix\.render"):
        assemble(Cluster(workspace, inventory))


@pytest.mark.parametrize("name", [b"bad\xff.nix", b"two\nlines.nix"])
def test_a_file_name_that_is_no_text_is_refused(ready: tuple[Workspace, Inventory], name: bytes) -> None:
    Path(os.fsdecode(bytes(ready[0].hosts_dir) + b"/" + name)).write_text("{ }")
    with pytest.raises(UsageError, match="not UTF-8, or holds control characters"):
        assemble(Cluster(*ready))


def test_a_huge_file_is_refused(ready: tuple[Workspace, Inventory]) -> None:
    (ready[0].hosts_dir / "dump.nix").write_bytes(bytes(MAX_FILE_BYTES + 1))
    with pytest.raises(UsageError, match=r"dump\.nix: larger than 5,000,000 bytes"):
        assemble(Cluster(*ready))
