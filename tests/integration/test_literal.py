"""Proves that the real Nix reads back every value that the ``nix`` filter writes, hostile strings included."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smallkube.nix.literal import literal

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20) | st.sampled_from(
    ['${builtins.abort "x"}', "$${a}", "''${x}''", '"; rm -rf /; "', "\\", "$", "$$", "\r\n", "a${", "#", "/*"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(values, min_size=10, max_size=30))
def test_nix_reads_the_same_value_back(
    batch: list[object], tmp_path: Path, needs: Callable[[str, object, str], None]
) -> None:
    needs("integration", shutil.which("nix-instantiate"), "nix-instantiate (Debian: nix-bin)")
    file = tmp_path / "value.nix"
    file.write_text(literal(batch))
    done = subprocess.run(
        ["nix-instantiate", "--eval", "--strict", "--json", str(file)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == batch
