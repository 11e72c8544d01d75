"""The flake that `inv deploy` builds, evaluated by the Nix of this machine without building anything."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smallkube.core import process
from smallkube.core.errors import SmallkubeError
from smallkube.nix import build
from smallkube.nix.literal import literal

Description = dict[str, Any]
"""What ``describe.nix`` says of one node, and ``scripts``: name → text of each generated shell script; JSON only."""

NODE_SECONDS = 600.0
_DESCRIBE = Path(__file__).with_name("describe.nix")
_SOURCE = re.compile(r"/nix/store/[a-z0-9]{32}-source/")


@dataclass(frozen=True)
class Flake:
    """The flake at ``url``; ``overrides``: input → URL of what is used in its place."""

    nix: str
    url: str
    overrides: Mapping[str, str] = field(default_factory=dict)

    def inputs(self) -> dict[str, str]:
        """Fetch the inputs; name → what it is. Raises SmallkubeError when one is not to be had."""
        nodes = json.loads(self._run("flake", "metadata", "--json", self.url))["locks"]["nodes"]
        names = {name: node for name, node in nodes["root"].get("inputs", {}).items() if isinstance(node, str)}
        locked = {name: nodes[node]["locked"] for name, node in names.items()}
        fetch = 'map (input: (builtins.fetchTree (removeAttrs input [ "dir" ])).outPath) (builtins.fromJSON {})'
        self._run("eval", "--json", "--expr", fetch.format(literal(json.dumps(list(locked.values())))))
        return {name: self._origin(name, where) for name, where in locked.items()}

    def _origin(self, name: str, locked: Mapping[str, Any]) -> str:
        if name in self.overrides:
            return f"{self.overrides[name]} (overridden)"
        place = locked.get("path") or locked.get("url") or f"{locked.get('owner')}/{locked.get('repo')}"
        return f"{locked['type']}:{place}" + (f"/{locked['rev'][:12]}" if "rev" in locked else "")

    def describe(self, node: str) -> Description:
        """Raises SmallkubeError with the evaluation's own first error."""
        attribute = f"{self.url}#nixosConfigurations.{node}"
        answer = self._run(
            "eval", "--option", "eval-cache", "false", "--json", attribute, "--apply", _DESCRIBE.read_text()
        )
        description: Description = json.loads(answer)
        description["scripts"] = self._scripts(description.pop("derivations"))
        return description

    def _scripts(self, derivations: Sequence[str]) -> dict[str, str]:
        """The shell scripts among ``derivations``, and those that they start."""
        verb = ("derivation", "show") if build.version(self.nix) >= (2, 14) else ("show-derivation",)
        found: dict[str, str] = {}
        seen: set[str] = set()
        while pending := {path for path in derivations if path.endswith(".drv")} - seen:
            seen |= pending
            argv = [self.nix, *build.FEATURES, *verb, *sorted(pending)]
            texts = generated_texts(_output(process.run(argv, environment=os.environ)))
            found |= {Path(path).stem: text for path, (text, _) in texts.items() if _is_shell(text)}
            derivations = [path for _, inputs in texts.values() for path in inputs]
        return found

    def _run(self, *words: str) -> str:
        overrides = [word for pair in self.overrides.items() for word in ("--override-input", *pair)]
        argv = [self.nix, *build.FEATURES, *words, "--no-write-lock-file", *overrides]
        return _output(process.run(argv, environment=os.environ, timeout=NODE_SECONDS))


def _output(result: process.Result) -> str:
    if result.stopped:
        raise SmallkubeError("Nix did not finish in time")
    if not result.ok:
        raise SmallkubeError(reason(result.stderr))
    return result.stdout


def generated_texts(shown: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Derivation → the text that it writes, and the derivations that the text names; of `nix derivation show`.

    Paths are base names since version 3 of its format (Nix 2.32), inputs and the whole are nested since version 4.
    """
    found = json.loads(shown)
    texts = {}
    for path, each in found.get("derivations", found).items():
        inputs = each.get("inputDrvs") or each.get("inputs", {}).get("drvs", {})
        if (text := each.get("env", {}).get("text")) is not None:
            texts[_in_store(path)] = text, tuple(map(_in_store, inputs))
    return texts


def _in_store(path: str) -> str:
    return f"/nix/store/{Path(path).name}"


def _is_shell(text: str) -> bool:
    first = text.split("\n", 1)[0]
    return first.startswith("#!") and first.split()[0].endswith("sh")


def syntax_errors(nix_instantiate: str, files: Sequence[Path]) -> dict[Path, str]:
    """The files that Nix can't parse, each with the reason."""
    offline = {"NIX_REMOTE": "dummy://", "NIX_PATH": "", "NIX_CONFIG": "experimental-features ="}
    parse = [nix_instantiate, "--parse"]
    if not files or process.run([*parse, *files], environment=offline).ok:
        return {}
    results = {file: process.run([*parse, file], environment=offline) for file in files}
    return {file: reason(result.stderr) for file, result in results.items() if not result.ok}


def reason(stderr: str) -> str:
    """What Nix complains about, on one line: the error without the trace, its place in the source kept."""
    plain = _SOURCE.sub("", re.sub(r"\x1b\[[0-9;]*m", "", stderr))
    start = max(plain.rfind("error:"), 0)
    lines = [line.strip() for line in plain[start:].splitlines()]
    kept = [line for line in lines if line and not re.match(r"\(use '--show-trace|\(stack trace|\d*\s*\||…|at «", line)]
    return " ".join(kept).removeprefix("error:").strip() or "Nix failed without saying why"
