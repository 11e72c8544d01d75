"""Proves that `nix.check` evaluates the flake that is deployed and finds, with the real systemd-analyze, nft,
systemd-networkd and shellcheck, what evaluation alone accepts; and that it says what it could not check."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lab.checks.evaluate import INPUTS
from smallkube.core import process
from smallkube.core.checks import Check, Result, failed
from smallkube.core.errors import UsageError
from smallkube.core.workspace import REPOSITORY
from smallkube.nix.check import BOOT, check
from smallkube.nix.flake import Description, Flake

from .conftest import CLUSTERS, Build, Tree

pytestmark = pytest.mark.integration

Needs = Callable[[str, object, str], None]
HOST = "nix/hosts/node2.nix"
TOOLS = ("units", "firewall", "network files", "scripts")


@pytest.fixture
def tree(build: Build) -> Tree:
    return build((1, 2))


@pytest.fixture
def nix(store: str) -> str:
    return store


def checked(tree: Tree, inputs: Mapping[str, str] = INPUTS) -> tuple[Check, ...]:
    return check(tree.files, tree.nodes, inputs)


def results(checks: tuple[Check, ...]) -> dict[tuple[str, str], Result]:
    return {(each.subject, each.check): each.result for each in checks}


def details(checks: tuple[Check, ...], name: str, node: str = "node2") -> str:
    return "\n".join(each.detail for each in checks if (each.subject, each.check) == (node, name))


@pytest.mark.parametrize("indices", CLUSTERS.values(), ids=CLUSTERS)
def test_rendered_configuration_passes_every_check(
    indices: tuple[int, ...], build: Build, nix: str, needs: Needs
) -> None:
    programs = ("systemd-analyze", "nft", "shellcheck", "unshare")
    missing = [name for name in programs if process.find(name) is None]
    needs("integration", not missing and os.geteuid() == 0, f"root and {', '.join(missing) or 'namespaces'}")
    tree = build(indices)
    checks = checked(tree)
    warned = {pair for pair, result in results(checks).items() if result is not Result.OK}
    assert warned == {("", "evaluator"), *((node, BOOT) for node in tree.nodes)}
    each_node = {(node, name) for node in tree.nodes for name in ("evaluation", "assertions", *TOOLS, BOOT)}
    assert results(checks).keys() == {("", "syntax"), ("", "inputs"), ("", "evaluator"), *each_node}


def test_inputs_that_were_used_are_named(tree: Tree, nix: str) -> None:
    named = details(checked(tree), "inputs", "")
    assert f"nixpkgs {INPUTS['nixpkgs']} (overridden)" in named
    assert f"agenix {INPUTS['agenix']} (overridden)" in named


def test_override_of_an_unknown_input_is_refused(tree: Tree, nix: str) -> None:
    with pytest.raises(UsageError, match="no input nixos to override; the inputs are agenix, nixpkgs"):
        checked(tree, {**INPUTS, "nixos": INPUTS["nixpkgs"]})


def test_input_that_cannot_be_had_is_not_a_fault(tree: Tree, nix: str) -> None:
    checks = checked(tree, {**INPUTS, "nixpkgs": "path:/nowhere"})
    assert {name: result for (_, name), result in results(checks).items()} == {
        "syntax": Result.OK,
        BOOT: Result.WARNING,
        **dict.fromkeys(("inputs", "evaluation", *TOOLS), Result.SKIPPED),
    }
    assert "/nowhere" in details(checks, "inputs", "")


BOOTS = 'fileSystems."/".device = "/dev/sda1"; boot.loader.systemd-boot.enable = true;'
KEY = 'users.users.root.openssh.authorizedKeys.keys = [ "ssh-ed25519 AAAA ann" ];'
NIXOS = """
{ lib, ... }: {
  options.system.nixos = lib.mkOption { type = lib.types.attrs; default = { version = "25.11.1"; }; };
}
"""
"""As much of NixOS as is asked what evaluated."""


@pytest.fixture
def nixos(tmp_path: Path) -> Mapping[str, str]:
    """Inputs that are NixOS by their own word."""
    folder = shutil.copytree(REPOSITORY / "lab/nix", tmp_path / "nixpkgs")
    (folder / "real.nix").write_text(NIXOS)
    flake, system = folder / "flake.nix", "nixosSystem = import ./eval-config.nix { inherit lib; };"
    text = flake.read_text()
    assert system in text
    real = "args: import ./eval-config.nix { inherit lib; } (args // { modules = args.modules ++ [ ./real.nix ]; });"
    flake.write_text(text.replace(system, f"nixosSystem = {real}"))
    return {**INPUTS, "nixpkgs": f"path:{folder}"}


@pytest.mark.parametrize(
    ("host", "missing"),
    [
        (f"{{ {BOOTS} {KEY} }}", ""),
        (f"{{ {KEY} }} # {BOOTS}", "no file system, no boot loader"),
        (f"{{ {BOOTS} users.users.ann.openssh.authorizedKeys.keys = [ ]; }}", "no authorized SSH key"),
        (f"{{ {BOOTS.replace('true', 'false')} {KEY} }}", "no boot loader"),
        ("{ boot.isContainer = true; }", ""),
    ],
)
def test_nixos_itself_says_what_a_machine_lacks(
    host: str, missing: str, tree: Tree, nix: str, nixos: Mapping[str, str]
) -> None:
    checks = check(tree.with_file(HOST, host).files, ["node2"], nixos)
    assert results(checks)["", "evaluator"] is Result.OK
    assert details(checks, "evaluator", "").endswith("NixOS 25.11.1")
    wanted = f"nix/hosts: {missing}; copy what the machine has in /etc/nixos" if missing else ""
    assert (results(checks)["node2", BOOT] is Result.OK, details(checks, BOOT)) == (not missing, wanted)


@pytest.mark.parametrize("option", ["boot.loader.sytemd-boot.enable", "services.opensh.enable", "fileSystem.x.device"])
def test_an_option_that_only_nixos_knows_is_named(option: str, tree: Tree, nix: str) -> None:
    """Misspelt or not: what stands in for NixOS can't tell, and does not call it checked."""
    checks = checked(tree.with_file(HOST, f"{{ {option} = true; }}"))
    assert results(checks)["", "evaluator"] is Result.WARNING
    assert "inputs that are not NixOS" in details(checks, "evaluator", "")
    assert results(checks)["node2", "options"] is Result.SKIPPED
    assert option in details(checks, "options")
    assert ("node1", "options") not in results(checks)


def test_words_are_compared_where_nixos_is_not_asked(tree: Tree, nix: str) -> None:
    checks = checked(tree.with_file(HOST, f"{{ {BOOTS} {KEY} }}"))
    assert (results(checks)["node2", BOOT], results(checks)["node1", BOOT]) == (Result.OK, Result.WARNING)
    assert details(checks, BOOT) == "only the words in nix/hosts were compared"


UNITS = """
  x = { script = "true"; serviceConfig.Restrat = "always"; };
  y = { script = "true"; serviceConfig.RestartSec = "soon"; };
  z.serviceConfig.Type = "oneshot";
"""
NETWORK = """
  networks."20-x" = { matchConfig.Name = "x"; networkConfig.Adress = "1"; };
  networks."20-y" = { matchConfig.Name = "y"; address = [ "1.2.3.4/99" ]; };
  netdevs."20-z".netdevConfig = { Name = "z"; Kind = "brigde"; };
"""
SCRIPTS = """
  systemd.services.x.script = "cd $HOME; rm -rf $1/*";
  system.activationScripts.x = "if true; then echo";
  environment.etc.x.text = "${pkgs.writeShellScript "hidden" "echo $(("}";
"""
FAULTS = [
    ("units", f"systemd.services = {{ {UNITS} }};", ["Restrat", "soon", "z.service"]),
    ("firewall", 'networking.firewall.extraInputRules = "tcp dprot 1 accept";', ["dprot"]),
    (
        "firewall",
        'networking.nftables.tables.t = { family = "ip"; content = "chain c { jump nowhere }"; };',
        ["nowhere"],
    ),
    ("network files", f"systemd.network = {{ {NETWORK} }};", ["Adress", "1.2.3.4/99", "brigde"]),
    ("scripts", SCRIPTS, ["SC2086", "SC1046", "hidden"]),
    ("assertions", 'assertions = [ { assertion = false; message = "no way"; } ];', ["no way"]),
]


@pytest.mark.parametrize(("name", "configuration", "complaints"), FAULTS)
def test_faults_are_found(
    name: str, configuration: str, complaints: list[str], tree: Tree, nix: str, needs: Needs
) -> None:
    needs("integration", os.geteuid() == 0, "root, for namespaces")
    faulty = tree.with_file(HOST, f"{{ pkgs, ... }}: {{ {configuration} }}")
    checks = check(faulty.files, ["node2"], INPUTS)
    assert [complaint for complaint in complaints if complaint not in details(checks, name)] == []
    assert {(each.subject, each.check) for each in failed(checks)} == {("node2", name)}


def test_a_script_that_another_one_starts_is_checked(tree: Tree, nix: str) -> None:
    nested = 'pkgs.writeShellScript "outer" "exec ${pkgs.writeShellScript "inner" "cd $HOME"}"'
    host = f'{{ pkgs, ... }}: {{ systemd.services.x.serviceConfig.ExecStart = "${{{nested}}}"; }}'
    checks = checked(tree.with_file(HOST, host))
    assert "inner" in details(checks, "scripts")


def test_a_node_that_does_not_evaluate_leaves_the_others_checked(tree: Tree, nix: str) -> None:
    checks = checked(tree.with_file(HOST, "{ systemd.services.x.scirpt = 1; }"))
    assert "does not exist" in details(checks, "evaluation")
    assert details(checks, "evaluation").count("nix/hosts/node2.nix") == 1
    assert "/nix/store" not in details(checks, "evaluation")
    assert results(checks)["node1", "units"] is Result.OK
    assert ("node2", "units") not in results(checks)


def test_the_others_of_its_batch_are_checked_too(build: Build, nix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    describe = Flake.describe

    def counted(self: Flake, nodes: Sequence[str]) -> dict[str, Description]:
        asked.append(tuple(nodes))
        return describe(self, nodes)

    monkeypatch.setattr(Flake, "describe", counted)
    monkeypatch.setattr("smallkube.nix.check.BATCH", 3)
    tree = build((1, 2, 3, 4, 5)).with_file(HOST, "{ systemd.services.x.scirpt = 1; }")
    checks = checked(tree)
    single = [(node,) for node in tree.nodes]
    assert sorted(asked) == sorted([*single[:3], ("node2", "node3"), ("node4", "node5")])
    assert {each.subject for each in checks if each.check == "units"} == {"node1", "node3", "node4", "node5"}
    assert [each.subject for each in failed(checks)] == ["node2"]


def test_the_same_units_of_other_nodes_are_verified_once(
    build: Build, nix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []
    run = process.run

    def counted(argv: Sequence[str | Path], **options: Any) -> process.Result:
        if "verify" in argv:
            verified.append(f"{argv[-1]}")
        return run(argv, **options)

    monkeypatch.setattr(process, "run", counted)
    monkeypatch.setattr("smallkube.nix.check.AT_ONCE", 1)
    monkeypatch.setattr("smallkube.nix.check._sound_units", set())
    faulty = '{ systemd.services.x.serviceConfig = { ExecStart = "/bin/x"; Foo = 1; }; }'
    checks = checked(build((1, 2, 3, 4, 5)).with_file("nix/hosts/node4.nix", faulty))
    assert [(each.subject, each.check) for each in failed(checks)] == [("node4", "units")]
    assert "Foo" in details(checks, "units", "node4")
    assert len(verified) == 3  # of the primary, of the workers, and of node4


def test_syntax_errors_are_reported_for_every_file(tree: Tree, nix: str) -> None:
    broken = tree.with_file(HOST, "{ a = 1 }").with_file("nix/hosts/node1.nix", "{ b = ; }")
    checks = checked(broken)
    text = details(checks, "syntax", "")
    assert "nix/hosts/node1.nix: " in text and " at nix/hosts/node1.nix:1:" in text
    assert "nix/hosts/node2.nix: " in text
    assert {each.subject for each in failed(checks) if each.check == "evaluation"} == {"node1", "node2"}


def test_without_nix_nothing_is_called_checked(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "find", lambda *_: None)
    checks = checked(tree)
    assert {each.check for each in checks} == {"syntax", "inputs", "evaluation", *TOOLS, BOOT}
    skipped = [each for each in checks if each.check != BOOT]
    assert all(each.result is Result.SKIPPED and "Nix is not installed" in each.detail for each in skipped)


def test_a_missing_tool_is_named(tree: Tree, nix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = process.find
    kept = ("nix", "nix-instantiate", "git")
    monkeypatch.setattr(process, "find", lambda name, *more: found(name, *more) if name in kept else None)
    checks = checked(tree)
    for name in TOOLS:
        assert results(checks)["node1", name] is Result.SKIPPED
        assert "is not installed" in details(checks, name, "node1")
    assert failed(checks) == ()


def test_nothing_is_left_behind(tree: Tree, nix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    checked(tree)
    assert list((tmp_path / "temporary").iterdir()) == []
