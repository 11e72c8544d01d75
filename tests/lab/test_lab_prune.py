"""Proves `inv lab.prune`, and what `lab.status` and `lab.down --all` say of disk space, beside another state folder."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab import image
from lab.cluster import Lab
from lab.places import Places

INV = Path(sys.executable).with_name("inv")
MEBIBYTE = 1 << 20


def inv(*words: str, cache: Path, state: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "XDG_STATE_HOME": str(state)}
    return subprocess.run([INV, *words], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def result(*words: str, cache: Path, state: Path) -> Any:
    done = inv(*words, "--json", cache=cache, state=state)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def stale(tmp_path: Path) -> Places:
    """A cache of its own with folders that stand for the current image, an old one and an interrupted build."""
    found = Places.find({"XDG_CACHE_HOME": str(tmp_path / "cache"), "XDG_STATE_HOME": str(tmp_path / "state")})
    for folder in (image.place(found.cache), found.cache / "image-0", found.cache / "kubernetes-building-0"):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(os.urandom(MEBIBYTE))
    return found


def test_prune_frees_what_no_lab_needs(stale: Places, tmp_path: Path) -> None:
    where = {"cache": tmp_path / "cache", "state": tmp_path / "state"}
    down = inv("lab.down", "--all", **where)
    assert down.returncode == 0
    assert "images and builds that no lab needs take 2 MiB; inv lab.prune" in down.stderr
    dry = inv("lab.prune", "--dry-run", **where)
    assert dry.stderr == "would free 2 MiB\n" and dry.stdout.count("to be removed") == 2
    report = result("lab.prune", **where)
    assert 2 * MEBIBYTE <= report["freed"] < 3 * MEBIBYTE
    now = image.place(stale.cache)
    assert [path for path in stale.cache.iterdir() if path.is_dir()] == [now]
    assert sorted(folder["outcome"] for folder in report["folders"]) == ["kept", "removed", "removed"]
    assert inv("lab.prune", **where).stderr == "nothing to remove\n"
    assert "lab.prune" not in inv("lab.down", "--all", **where).stderr
    refused = inv("lab.prune", "--all", **where)
    assert refused.returncode == 2 and "--yes" in refused.stderr and now.is_dir()
    assert inv("lab.prune", "--all", "--yes", **where).stderr == "freed 1 MiB\n"
    assert not now.exists()


def test_prune_keeps_what_a_lab_in_another_state_folder_uses(places: Places, tmp_path: Path) -> None:
    lab = Lab(Places(places.cache, tmp_path / "state/smallkube/lab"), f"sizes-{os.getpid()}")
    where = {"cache": places.cache.parents[1], "state": tmp_path / "state"}
    try:
        lab.up(1, None, lambda _text: None, lambda _node, _text: None)
        report = result("lab.status", **where)
        assert [(each["lab"], each["nodes"][0]["state"]) for each in report["labs"]] == [(lab.name, "running")]
        assert report["labs"][0]["size"] > MEBIBYTE
        sizes = {folder["name"]: folder["size"] for folder in report["cache"]["folders"]}
        assert sizes[image.place(places.cache).name] > 100 * MEBIBYTE
        shown = inv("lab.status", **where).stdout
        assert f"\nlab {lab.name} " in shown and "in use" in shown
        elsewhere = {**where, "state": tmp_path / "elsewhere"}
        kept = {each["name"]: each for each in result("lab.prune", "--all", "--dry-run", **elsewhere)["folders"]}
        assert kept[image.place(places.cache).name]["outcome"] == "kept"
        assert kept[image.place(places.cache).name]["state"] == "in use"
    finally:
        lab.down()
