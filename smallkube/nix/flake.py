"""The flake that `inv deploy` builds, locked and evaluated by the Nix of this machine; nothing is built."""

import json
import os
import re
import tempfile
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from smallkube.core import process
from smallkube.core.errors import MALFORMED, SmallkubeError, UsageError
from smallkube.nix.bundle import write_tree
from smallkube.nix.literal import literal

Description = dict[str, Any]
"""What ``describe.nix`` says of one node, and ``scripts``: name → text of each generated shell script; JSON only."""

FOLDER = "nix"
FILE = "nix/flake.nix"
LOCK_FILE = "nix/flake.lock"
FEATURES = ("--extra-experimental-features", "nix-command flakes")
SECONDS = 600.0
_PATHS = (2, 19)
"""Since this version, Nix takes `path:TREE?dir=FOLDER`."""
_DESCRIBE = Path(__file__).with_name("describe.nix")
_VERSIONS = """
  { config, ... }: builtins.mapAttrs (_: package: package.version or "") {
    kubernetes = config.kube.package or { };
    etcd = config.kube.etcdPackage or { };
    cri-o = config.virtualisation.cri-o.package or { };
    coredns = config.services.coredns.package or { };
    linux = config.boot.kernelPackages.kernel or { };
    systemd = config.systemd.package or { };
    openssh = config.programs.ssh.package or { };
    nix = config.nix.package or { };
  }
"""
_SOURCE = re.compile(r"/nix/store/[a-z0-9]{32}-source/")
_CONSEQUENCE = re.compile(r"error: (\d+ dependenc|build of .* failed|Cannot build .*\n\s*Reason: \d+ dependenc)")
"""What Nix says after the reason: that something else could not be built because of it."""
_AFTERWARDS = re.compile(
    r"(?m)(?<!\A)^error:|^\s*For full logs, run|^warning: |^Command '.*' returned|^Traceback \(|^subprocess\.Called"
)
"""Where the reason ends: at the next error, or at what nixos-rebuild(8) says of Nix' exit status."""
_GIT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
"""The operator's git configuration could change or leave out files."""


def url(nix: str, tree: Path) -> str:
    """The flake in TREE/nix, with which this ``nix`` sees the whole tree. Raises UsageError when that needs git."""
    for words in (("init", "--quiet"), ("add", "--all", "--force")) if require_git(nix) else ():
        done = process.run(["git", "-C", tree, *words], environment=_GIT)
        if not done.ok:
            raise SmallkubeError(f"git {words[0]} failed: {done.stderr.strip()}")
    return address(nix, tree)


def address(nix: str, tree: Path) -> str:
    """``url`` of a tree that is prepared for it."""
    kind = "git+file://" if version(nix) < _PATHS else "path:"
    return f"{kind}{urllib.parse.quote(str(tree))}?dir={FOLDER}"


def require_git(nix: str) -> bool:
    """Whether ``nix`` needs a git tree; raises UsageError when there is no git to make one.

    Until 2.18 it does not take `path:TREE?dir=FOLDER`; of a git tree it sees all files whose names are in the index.
    """
    needed = version(nix) < _PATHS
    if needed and process.find("git") is None:
        raise UsageError("the Nix here is older than 2.19 and needs git", hint="install Nix 2.19 or newer, or git")
    return needed


def version(nix: str) -> tuple[int, int]:
    """Major and minor version of this ``nix``; (0, 0) when it does not say."""
    found = re.search(r"(\d+)\.(\d+)\S*$", process.run([nix, "--version"]).stdout.strip())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def lock(files: Mapping[str, bytes], *, update: bool) -> bytes:
    """The lock file for ``files`` (relative path → content: everything that Nix sees).

    ``update`` renews every input, else only what is missing is added. Nix gets to see flake.nix alone: it puts the
    folder of a flake into its store, which every user of this machine can read. Raises UsageError without Nix,
    SmallkubeError when it fails, which it does without network.
    """
    nix = process.find("nix")
    if nix is None:
        raise UsageError(
            "Nix is not installed here", hint="see `inv doctor`, or let the next deploy do it on the primary"
        )
    with tempfile.TemporaryDirectory(prefix="smallkube-") as name:
        folder, flake = Path(name), f"path:{name}"
        for file in ("flake.nix",) if update else ("flake.nix", "flake.lock"):
            if (content := files.get(f"{FOLDER}/{file}")) is not None:
                (folder / file).write_bytes(content)
        # Since Nix 2.19 `nix flake update` takes the flake as an option, and inputs as arguments.
        renew = ["update", "--flake", flake] if version(nix) >= (2, 19) else ["update", flake]
        try:
            _run(nix, "flake", *(renew if update else ["lock", flake]))
        except SmallkubeError as error:
            raise SmallkubeError(f"Nix could not pin the flake's inputs: {error.message}", where=LOCK_FILE) from error
        return (folder / "flake.lock").read_bytes()


def versions(files: Mapping[str, bytes], node: str) -> dict[str, str]:
    """Package → version on ``node``, of a bundle's ``files``; Nix fetches the inputs. Raises SmallkubeError."""
    nix = process.find("nix")
    if nix is None:
        raise UsageError("Nix is not installed here", hint="see `inv doctor`")
    with tempfile.TemporaryDirectory(prefix="smallkube-") as name:
        tree = Path(name).resolve() / "tree"
        write_tree(files, tree)
        return Flake(nix, url(nix, tree), {}).versions(node)


def require_sound_lock(files: Mapping[str, bytes]) -> None:
    """Raise UsageError when there is a lock file that Nix could not read, such as after a conflict of git's."""
    try:
        if (text := files.get(LOCK_FILE)) is not None:
            found = json.loads(text)
            found["nodes"][found["root"]].get("inputs")
    except MALFORMED as error:
        hint = "restore it from git, or run `inv nix.render --update-lock`"
        raise UsageError("damaged", where=LOCK_FILE, hint=hint) from error


@dataclass(frozen=True)
class Flake:
    """The flake at ``url``; ``overrides``: input → URL of what is used in its place."""

    nix: str
    url: str
    overrides: Mapping[str, str]

    def inputs(self) -> dict[str, str]:
        """Fetch the inputs; name → what it is. Raises SmallkubeError when one is not to be had."""
        nodes = json.loads(self._ask("flake", "metadata", "--json", self.url))["locks"]["nodes"]
        names = {name: node for name, node in nodes["root"].get("inputs", {}).items() if isinstance(node, str)}
        locked = {name: nodes[node]["locked"] for name, node in names.items()}
        fetch = 'map (input: (builtins.fetchTree (removeAttrs input [ "dir" ])).outPath) (builtins.fromJSON {})'
        self._ask("eval", "--json", "--expr", fetch.format(literal(json.dumps(list(locked.values())))))
        return {name: self._origin(name, where) for name, where in locked.items()}

    def _origin(self, name: str, locked: Mapping[str, Any]) -> str:
        if name in self.overrides:
            return f"{self.overrides[name]} (overridden)"
        place = locked.get("path") or locked.get("url") or f"{locked.get('owner')}/{locked.get('repo')}"
        return f"{locked['type']}:{place}" + (f"/{locked['rev'][:12]}" if "rev" in locked else "")

    def describe(self, nodes: Sequence[str]) -> dict[str, Description]:
        """Evaluate ``nodes`` in one process. Raises SmallkubeError with the evaluation's own first error."""
        each = f"name: {{ inherit name; value = ({_DESCRIBE.read_text()}) all.${{name}}; }}"
        apply = f"all: builtins.listToAttrs (map ({each}) {literal(list(nodes))})"
        installable = f"{self.url}#nixosConfigurations"
        answer = self._ask("eval", "--option", "eval-cache", "false", "--json", installable, "--apply", apply)
        described: dict[str, Description] = json.loads(answer)
        texts = self._texts({path for each in described.values() for path in each["derivations"]})
        for description in described.values():
            description["scripts"] = _scripts(description.pop("derivations"), texts)
        return described

    def versions(self, node: str) -> dict[str, str]:
        """Package → version, of what matters on ``node``. Raises SmallkubeError with the evaluation's first error."""
        answer = self._ask("eval", "--json", f"{self.url}#nixosConfigurations.{node}", "--apply", _VERSIONS)
        return {str(name): str(version) for name, version in json.loads(answer).items() if version}

    def _texts(self, derivations: Iterable[str]) -> "Texts":
        """Those that ``derivations`` write, and the derivations that these name."""
        found: Texts = {}
        seen: set[str] = set()
        while pending := {path for path in derivations if path.endswith(".drv")} - seen:
            seen |= pending
            new = generated_texts(_run(self.nix, *self._show, *sorted(pending)))
            found |= new
            derivations = [path for _, inputs in new.values() for path in inputs]
        return found

    @cached_property
    def _show(self) -> tuple[str, ...]:
        return ("derivation", "show") if version(self.nix) >= (2, 14) else ("show-derivation",)

    def _ask(self, *words: str) -> str:
        overrides = [word for pair in self.overrides.items() for word in ("--override-input", *pair)]
        return _run(self.nix, *words, "--no-write-lock-file", *overrides)


def _run(nix: str, *words: str) -> str:
    result = process.run([nix, *FEATURES, *words], environment=os.environ, timeout=SECONDS)
    if result.stopped:
        raise SmallkubeError("Nix did not finish in time")
    if not result.ok:
        raise SmallkubeError(reason(result.stderr))
    return result.stdout


def _scripts(derivations: Sequence[str], texts: "Texts") -> dict[str, str]:
    """The shell scripts among ``derivations``, and those that they start."""
    found: dict[str, str] = {}
    waiting, seen = [*derivations], set[str]()
    while waiting:
        path = waiting.pop()
        if path in seen or path not in texts:
            continue
        seen.add(path)
        text, inputs = texts[path]
        waiting += inputs
        if re.match(r"#!\S*sh(\s|$)", text):
            found[Path(path).stem] = text
    return found


Texts = dict[str, tuple[str, tuple[str, ...]]]
"""Derivation → the text that it writes, and the derivations that the text names."""


def generated_texts(shown: str) -> Texts:
    """Those in the output of `nix derivation show`.

    Paths are base names since version 3 of its format (Nix 2.32), inputs and the whole are nested since version 4.
    """

    def in_store(path: str) -> str:
        return f"/nix/store/{Path(path).name}"

    found = json.loads(shown)
    texts = {}
    for path, each in found.get("derivations", found).items():
        inputs = each.get("inputDrvs") or each.get("inputs", {}).get("drvs", {})
        if (text := each.get("env", {}).get("text")) is not None:
            texts[in_store(path)] = text, tuple(map(in_store, inputs))
    return texts


def reason(stderr: str) -> str:
    """What Nix complains about, on one line: the error without the trace, its place in the source kept."""
    plain = _SOURCE.sub("", re.sub(r"\x1b\[[0-9;]*m", "", stderr))
    errors = [plain[found.start() :] for found in re.finditer(r"error:", plain)]
    last = plain.strip().rpartition("\n")[2]
    whole = next((text for text in reversed(errors) if not _CONSEQUENCE.match(text)), last)
    whole = _AFTERWARDS.split(whole, maxsplit=1)[0]
    lines = [line.strip() for line in whole.splitlines()]
    kept = [line for line in lines if line and not re.match(r"\(use '--show-trace|\(stack trace|\d*\s*\||…|at «", line)]
    return " ".join(kept).removeprefix("error:").strip() or "Nix failed without saying why"
