"""Proves what the lab decides about Kubernetes' programs without building any: versions, names, what on PATH will do;
and that its container images are what their own digests say.
"""

import gzip
import hashlib
import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from lab import cache, containers, gobuild, kubernetes, programs
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.releases import MINORS

RECIPES = {recipe.module: recipe for recipe in kubernetes.RECIPES}

OTHER_PINS = {  # some do not compile with Kubernetes' version, or must be newer; some go with such a one
    "network-policy": {"github.com/opencontainers/runtime-spec"},
    "cri-o": {
        "github.com/containerd/containerd/api",
        "github.com/cyphar/filepath-securejoin",
        "github.com/go-openapi/jsonreference",
        "github.com/go-openapi/swag",
        "github.com/mailru/easyjson",
        "github.com/opencontainers/cgroups",
        "github.com/opencontainers/runtime-spec",
        "github.com/opencontainers/selinux",
        "go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc",
        "k8s.io/apiserver",
        "k8s.io/cri-api",
        "k8s.io/cri-client",
        "k8s.io/kubelet",
    },
}


def test_the_configuration_has_the_pinned_versions() -> None:
    folder = Path(kubernetes.__file__).parent / "nix"
    seen = dict(re.findall(r'^    (\S+) = "([\d.]+)";$', (folder / "pkgs.nix").read_text(), re.MULTILINE))
    for module, recipe in RECIPES.items():
        if module != "kubernetes":
            assert programs.pinned(recipe) == f"v{seen[module]}"
    row = r'^  "(1\.\d+)" = \{ version = "([\d.]+)"; folder = "(\S+)"; \};$'
    minors = {minor: rest for minor, *rest in re.findall(row, (folder / "kubernetes.nix").read_text(), re.MULTILINE)}
    assert minors.keys() == set(MINORS)
    for minor, (version, name) in minors.items():
        built = kubernetes.sets(minor)[-1]
        (recipe,) = [each for each in built.recipes if each.source == "k8s.io/kubernetes"]
        assert (programs.pinned(recipe), built.name) == (f"v{version}", name)
        assert version.startswith(f"{minor}.")


@pytest.mark.parametrize(
    "module", ["kubernetes", "conformance", "kubeadm", *(f"kubernetes-{minor}" for minor in kubernetes.FURTHER)]
)
def test_the_parts_of_kubernetes_are_of_one_version(module: str) -> None:
    text = (programs.MODULES / module / "go.mod").read_text()
    (version,) = re.findall(r"\bk8s\.io/kubernetes v1(\.\S+)", text)
    replaced = re.findall(r"^\s*(k8s\.io/\S+) => (\S+) (\S+)$", text, re.MULTILINE)
    assert len(replaced) > 25
    assert {(path, each) for _, path, each in replaced} == {(path, f"v0{version}") for path, _, _ in replaced}


def test_a_minor_without_modules_is_named() -> None:
    with pytest.raises(UsageError, match=r"the lab has no Kubernetes 1\.33"):
        kubernetes.sets("1.33")


def test_a_module_that_pins_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "etcd").mkdir()
    (tmp_path / "etcd/go.mod").write_text("module x\n")
    with pytest.raises(SmallkubeError, match="does not pin"):
        programs.pinned(RECIPES["etcd"], tmp_path)


def test_another_checksum_or_version_is_another_folder(tmp_path: Path) -> None:
    modules = tmp_path / "go"
    shutil.copytree(programs.MODULES, modules)
    before = kubernetes.place(tmp_path, modules)
    assert before == kubernetes.place(tmp_path, modules)
    assert before.name == kubernetes.place(Path("/elsewhere")).name
    with (modules / "etcd/go.sum").open("a") as sums:
        sums.write("more\n")
    assert kubernetes.place(tmp_path, modules) != before


def test_a_module_of_another_set_leaves_the_folder_as_it_is(tmp_path: Path) -> None:
    modules = tmp_path / "go"
    shutil.copytree(programs.MODULES, modules)
    before = kubernetes.place(tmp_path, modules)
    (modules / "else").mkdir()
    (modules / "else/go.mod").write_text("module smallkube.lab/else\n")
    assert kubernetes.place(tmp_path, modules) == before


def test_every_module_belongs_to_a_set_that_prune_knows() -> None:
    used = {recipe.module for each in cache.SETS for recipe in each.recipes}
    assert used == {folder.name for folder in programs.MODULES.iterdir()}
    assert len({each.name for each in cache.SETS}) == len(cache.SETS)


def pins(module: str) -> dict[str, tuple[str, str]]:
    """Module path → version that is required and version that is built, by go.mod; Go tells packages apart by both."""
    text = re.sub(r"^exclude \(.*?^\)", "", (programs.MODULES / module / "go.mod").read_text(), flags=re.M | re.S)
    required = re.findall(r"^(?:require |\t)(\S+) (v\S+)(?: // indirect)?$", text, re.MULTILINE)
    replaced = dict(re.findall(r"^(?:replace |\t)(\S+) => \1 (v\S+)$", text, re.MULTILINE))
    return {path: (version, replaced.get(path, version)) for path, version in required}


@pytest.mark.parametrize("module", ["addons", "conformance", "coredns", "cri-o", "hollow", "kubeadm", "network-policy"])
def test_what_kubernetes_has_compiled_is_not_compiled_again(module: str) -> None:
    own, shared = pins(module), pins("kubernetes")
    assert len(own.keys() & shared.keys()) > 30
    other = {path for path in own.keys() & shared.keys() if own[path] != shared[path]}
    assert other <= OTHER_PINS.get(module, set()), f"in lab/go/{module}: go get {' '.join(other)}"


def test_modules_lie_where_the_cache_has_them() -> None:
    mod = {
        "Require": [
            {"Path": "github.com/BurntSushi/toml", "Version": "v1.5.0"},
            {"Path": "k8s.io/api", "Version": "v0"},
        ],
        "Replace": [{"Old": {"Path": "k8s.io/api"}, "New": {"Path": "k8s.io/api", "Version": "v0.34.2"}}],
    }
    assert gobuild.module_folders(mod) == ["github.com/!burnt!sushi/toml@v1.5.0", "k8s.io/api@v0.34.2"]


def elf(*kinds: int) -> bytes:
    header = b"\x7fELF\x02\x01".ljust(32, b"\0") + struct.pack("<Q", 64)
    header = header.ljust(54, b"\0") + struct.pack("<HH", 56, len(kinds))
    return header.ljust(64, b"\0") + b"".join(struct.pack("<I", kind).ljust(56, b"\0") for kind in kinds)


@pytest.mark.parametrize(
    ("image", "alone"),
    [(elf(1, 2), True), (elf(1, programs.PT_INTERP), False), (b"#!/bin/sh\n", False), (b"", False)],
)
def test_a_program_that_needs_a_loader_is_not_self_contained(image: bytes, alone: bool) -> None:
    assert programs.self_contained(image) is alone


@pytest.mark.parametrize(
    ("answer", "usable"),
    [("Kubernetes v1.34.9", True), ("Kubernetes v1.35.0", False), ("Kubernetes v11.34.0", False), ("", False)],
)
def test_only_the_pinned_minor_version_on_path_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, usable: bool
) -> None:
    program = tmp_path / "kubelet"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{answer}"\n')
    program.chmod(0o755)
    assert programs.usable(program, "v1.34.2") is False, "a script is not self-contained"
    monkeypatch.setattr(programs, "self_contained", lambda _image: True)
    assert programs.usable(program, "v1.34.2") is usable


def test_a_program_that_does_not_start_is_not_used(tmp_path: Path) -> None:
    assert programs.usable(tmp_path / "missing", "v1.34.2") is False


def test_an_image_holds_what_its_digests_say(tmp_path: Path) -> None:
    image = containers.Image("x/one:1", [b"lower", b"upper"], ["sh"], ["/init"], user="1234")
    for folder in ("a", "b"):
        containers.write_images(tmp_path / folder, [image, containers.Image("x/two:1", [b"lower"], ["true"])])
    content = {path.relative_to(tmp_path / "a"): path.read_bytes() for path in (tmp_path / "a").rglob("*.*")}
    assert all((tmp_path / "b" / name).read_bytes() == data for name, data in content.items())
    blobs = {path.name: path.read_bytes() for path in (tmp_path / "a/blobs/sha256").iterdir()}
    assert all(hashlib.sha256(data).hexdigest() == digest for digest, data in blobs.items())

    def blob(described: dict[str, Any]) -> bytes:
        data = blobs[described["digest"].removeprefix("sha256:")]
        assert len(data) == described["size"]
        return data

    first, second = (
        (each["annotations"], json.loads(blob(each)))
        for each in json.loads((tmp_path / "a/index.json").read_text())["manifests"]
    )
    assert first[0] == {"org.opencontainers.image.ref.name": "x/one:1"}
    assert second[1]["layers"] == first[1]["layers"][:1]
    config = json.loads(blob(first[1]["config"]))
    given = {"Cmd": ["sh"], "Entrypoint": ["/init"], "User": "1234", "Env": [f"PATH={containers.PATHS}"]}
    assert config["config"] == given
    layers = [gzip.decompress(blob(layer)) for layer in first[1]["layers"]]
    assert layers == [b"lower", b"upper"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
